"""`s2v submit`: the printed command, the id, and a ray executable that stands in for a cluster."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from s2v_ray import cli
from s2v_ray.cluster.submit import Job, SubmitError, plain, submit
from s2v_ray.config import digest, load_recipe

TRAIN = ("train", "s3://b/corpus", "s3://b/run", "--student", "s3://b/student", "--recipe", "debug")


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster that knows its jobs by id, fails those whose command has the word "bad", and stops those with the word "stopped"."""
    path = tmp_path / "bin" / "ray"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "calls = pathlib.Path(__file__).with_name('calls')\n"
        "ids = [json.loads(c)[3] for c in calls.read_text().splitlines()] if calls.exists() else []\n"
        "with open(calls, 'a') as f: f.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "if sys.argv[4] in ids: print(f'ValueError: Job with submission_id {sys.argv[4]} already exists.'); sys.exit(1)\n"
        "print('job running')\n"
        "end = 'failed' if 'bad' in sys.argv else 'was stopped' if 'stopped' in sys.argv else 'succeeded'\n"
        "print(f'SUCC cli.py:67 -- \\33[32mJob {sys.argv[4]!r} {end}\\33[39m'); sys.exit(end == 'failed')\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


def calls(ray: Path) -> list[list[str]]:
    return [json.loads(line) for line in ray.with_name("calls").read_text().splitlines()]


def test_the_whole_command() -> None:
    job = Job(("train", "s3://b/c"), "abc", address="http://head:8265")
    assert job.submission_id == "s2v-train-" + digest([["train", "s3://b/c"], "abc", 1])
    runtime = '{"excludes": [".git", ".venv", "docs", "tests", "demo", "*.mp4"]}'
    expected = [
        "ray",
        "job",
        "submit",
        "--address",
        "http://head:8265",
        "--submission-id",
        job.submission_id,
        "--working-dir",
        ".",
    ]
    assert job.arguments({}) == [
        *expected,
        "--runtime-env-json",
        runtime,
        "--",
        "python",
        "-m",
        "s2v_ray",
        "train",
        "s3://b/c",
    ]
    assert shlex.split(job.shown()) == job.arguments({})


def test_the_id_follows_from_command_recipe_and_attempt_and_nothing_else() -> None:
    one = Job(("train", "a"), "x")
    others = [
        Job(("train", "b"), "x"),
        Job(("train", "a"), "y"),
        Job(("train", "a"), "x", attempt=2),
        Job(("tune", "a"), "x"),
    ]
    assert len({one.submission_id, *(j.submission_id for j in others)}) == 5
    assert (
        Job(("train", "a"), "x", address="http://h", working_dir="/w", variables=("HOME",)).submission_id
        == one.submission_id
    )


def test_values_are_read_by_the_shell_and_never_printed() -> None:
    job = Job(("train",), "", variables=("AWS_ENDPOINT_URL", "S2V_DEBUG"))
    shown = job.shown()
    assert "$AWS_ENDPOINT_URL" in shown and "http://store" not in shown
    environment = {"AWS_ENDPOINT_URL": "http://store it's:9000", "S2V_DEBUG": "1"}
    code = f"printf '%s\\n' {shown.removeprefix('ray ')}"
    done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, check=True)
    printed = done.stdout.splitlines()
    assert printed == job.arguments(environment)[1:]
    assert json.loads(printed[7])["env_vars"] == environment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": ("AWS_SECRET_ACCESS_KEY",)}, "would stand in the job's metadata"),
        ({"variables": ("RAY_AUTH_TOKEN",)}, "would stand in the job's metadata"),
        ({"variables": ("REGION=eu",)}, "give names"),
        ({"pip": "r.txt", "image": "i"}, "exclude each other"),
    ],
)
def test_what_must_not_be_submitted(change: dict[str, object], message: str) -> None:
    with pytest.raises(SubmitError, match=message):
        Job(("train",), "", **change)  # type: ignore[arg-type]


def test_an_image_stands_alone() -> None:
    arguments = Job(("train",), "", image="r/i:1").arguments({})
    assert "--working-dir" not in arguments
    assert json.loads(arguments[arguments.index("--runtime-env-json") + 1]) == {"image_uri": "r/i:1"}


@pytest.mark.parametrize(
    "words",
    [
        ["--", "train", "x"],
        ["train", "x"],
        ["--", "s2v", "train", "x"],
        ["--", "python", "-m", "s2v_ray", "train", "x"],
    ],
)
def test_how_the_command_may_be_written(words: list[str]) -> None:
    assert plain(words) == ("train", "x")


def test_nothing_is_run_without_yes(ray: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["submit", "--json", str(tmp_path / "out.json"), "--", *TRAIN]) == 0
    job = Job(TRAIN, load_recipe("debug").digest())
    assert capsys.readouterr().out.strip() == job.shown()
    assert json.loads((tmp_path / "out.json").read_text())["result"] == {
        "submission_id": job.submission_id,
        "command": job.shown(),
        "submitted": False,
    }
    assert not ray.with_name("calls").exists()


def test_submitted_twice_it_runs_once(ray: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 0
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 0
    assert "has job s2v-train-" in capsys.readouterr().out
    first, second = calls(ray)
    assert first == second == Job(TRAIN, load_recipe("debug").digest()).arguments({})[1:]


def test_a_failed_job_is_an_error(ray: Path) -> None:
    with pytest.raises(SubmitError, match="status 1.*--attempt 2 tries again"):
        submit(Job(("train", "bad"), ""), dict(os.environ))


def test_a_job_that_was_stopped_is_an_error_though_ray_says_status_0(ray: Path) -> None:
    with pytest.raises(SubmitError, match="did not come to its end.*--attempt 2 tries again"):
        submit(Job(("train", "stopped"), ""), dict(os.environ))


def test_a_bad_command_is_found_before_it_travels(ray: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--", *TRAIN, "--set", "gan.stepz=1"]) == 1
    assert "did you mean 'gan.steps'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["submit", "--yes", "--", "dance"])
    assert cli.main(["submit", "--yes"]) == 1
    assert not ray.with_name("calls").exists()


def test_an_unset_variable_is_named(ray: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--env", "NOT_SET_HERE", "--", *TRAIN]) == 1
    assert "not set here: NOT_SET_HERE" in capsys.readouterr().err
    assert not ray.with_name("calls").exists()
