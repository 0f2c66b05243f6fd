"""`s2v submit`: the printed command, the id, and a stand-in for Ray's client of a cluster."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.job_submission
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from s2v_ray import cli, storage
from s2v_ray.cluster.submit import ClusterJob, SubmitError, parse_command, submit
from s2v_ray.config import digest, load_recipe

TRAIN = ("train", "s3://b/corpus", "s3://b/run", "--student", "s3://b/student", "--recipe", "debug")
SERVER_ERROR = "Request failed with status code 500: Traceback (most recent call last):\n  File ...\n"


@dataclass
class StubCluster:
    """A cluster that runs each job at once; ``status`` and ``message`` are those of the next job's end."""

    status: JobStatus = JobStatus.SUCCEEDED
    message: str | None = None
    error: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    addresses: list[str | None] = field(default_factory=list)
    headers: list[Any] = field(default_factory=list)
    tailed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    _server_ray_version: str | None = ray.__version__

    def client(self, address: str | None = None, *, headers: Any = None) -> StubCluster:
        self.addresses.append(address)
        self.headers.append(headers)
        return self

    def list_jobs(self) -> list[SimpleNamespace]:
        times = {"start_time": 1_000_000, "end_time": 1_090_000}
        return [
            SimpleNamespace(submission_id=None),
            *(
                SimpleNamespace(submission_id=known, status=self.status, entrypoint=job["entrypoint"], **times)
                for known, job in self.jobs.items()
            ),
        ]

    def stop_job(self, submission_id: str) -> bool:
        self.stopped.append(submission_id)
        return True

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str:
        if self.error:
            raise RuntimeError(SERVER_ERROR + self.error)
        if submission_id in self.jobs:
            raise RuntimeError(SERVER_ERROR + f"ValueError: Job with submission_id {submission_id} already exists.")
        self.jobs[submission_id] = {"entrypoint": entrypoint, "runtime_env": runtime_env}
        return submission_id

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        for lines in ("step 1\n", "step 2\nstep 3\n"):
            self.tailed.append(lines)
            yield lines

    def get_job_info(self, submission_id: str) -> SimpleNamespace:
        assert submission_id in self.jobs
        return SimpleNamespace(status=self.status, message=self.message)


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "RAY_JOB_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    read = storage.fingerprint

    def fingerprint(uri: str) -> str:
        if uri.startswith("s3://"):
            raise storage.StoreError(f"cannot list {uri}: no store here")
        return read(uri)

    monkeypatch.setattr(storage, "fingerprint", fingerprint)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> StubCluster:
    stub = StubCluster()
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", stub.client)
    return stub


def test_another_release_of_ray_is_refused_unless_an_image_is_named(cluster: StubCluster) -> None:
    cluster._server_ray_version = "2.50.1"
    with pytest.raises(SubmitError, match=f"the cluster runs Ray 2.50.1, this environment Ray {ray.__version__}"):
        submit(ClusterJob(("train", "a"), ""), {})
    assert cluster.jobs == {}
    assert submit(ClusterJob(("train", "a"), "", image="repository/s2v_ray:1"), {})


def test_another_patch_of_the_release_is_accepted(cluster: StubCluster) -> None:
    cluster._server_ray_version = ".".join([*ray.__version__.split(".")[:2], "99"])
    assert submit(ClusterJob(("train", "a"), ""), {})


# ---- the printed command


def test_the_arguments_of_ray_job_submit() -> None:
    job = ClusterJob(("train", "s3://b/c"), "abc", address="http://head:8265")
    assert job.submission_id == "s2v-train-" + digest([["train", "s3://b/c"], "abc", "", 1])
    runtime_env = '{"excludes": [".git", ".venv", "docs", "tests", "demo", "*.mp4"]}'
    address = ["--address", "http://head:8265"]
    options = ["--submission-id", job.submission_id, "--working-dir", ".", "--runtime-env-json", runtime_env]
    program = ["python", "-m", "s2v_ray", "train", "s3://b/c"]
    assert job.arguments({}) == ["ray", "job", "submit", *address, *options, "--", *program]
    assert shlex.split(job.command_line()) == job.arguments({})


def test_the_id_depends_on_command_recipe_inputs_and_attempt_only() -> None:
    one = ClusterJob(("train", "a"), "x")
    others = [
        ClusterJob(("train", "b"), "x"),
        ClusterJob(("train", "a"), "y"),
        ClusterJob(("train", "a"), "x", attempt=2),
        ClusterJob(("tune", "a"), "x"),
        ClusterJob(("train", "a"), "x", inputs="z"),
    ]
    assert len({one.submission_id, *(j.submission_id for j in others)}) == 6
    same = ClusterJob(("train", "a"), "x", address="http://h", working_dir="/w", variables=("HOME",))
    assert same.submission_id == one.submission_id


def test_values_are_read_by_the_shell_and_never_printed() -> None:
    job = ClusterJob(("train",), "", variables=("AWS_ENDPOINT_URL", "S2V_DEBUG"))
    line = job.command_line()
    assert "$AWS_ENDPOINT_URL" in line
    assert "http://store" not in line
    environment = {"AWS_ENDPOINT_URL": "http://store it's:9000", "S2V_DEBUG": "1"}
    code = f"printf '%s\\n' {line.removeprefix('ray ')}"
    done = subprocess.run(["bash", "-c", code], env=environment, capture_output=True, text=True, check=True)
    printed = done.stdout.splitlines()
    assert printed == job.arguments(environment)[1:]
    assert json.loads(printed[7])["env_vars"] == environment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variables": ("AWS_SECRET_ACCESS_KEY",)}, "would be readable in the job's metadata"),
        ({"variables": ("RAY_AUTH_TOKEN",)}, "would be readable in the job's metadata"),
        ({"variables": ("REGION=eu",)}, "give names"),
        ({"pip": "r.txt", "image": "i"}, "exclude each other"),
    ],
)
def test_jobs_that_must_not_be_submitted(change: dict[str, object], message: str) -> None:
    with pytest.raises(SubmitError, match=message):
        ClusterJob(("train",), "", **change)  # type: ignore[arg-type]


def test_an_image_excludes_a_working_directory() -> None:
    arguments = ClusterJob(("train",), "", image="r/i:1").arguments({})
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
def test_forms_of_the_command(words: list[str]) -> None:
    assert parse_command(words) == ("train", "x")


def test_nothing_is_submitted_without_yes(
    cluster: StubCluster, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["submit", "--json", str(tmp_path / "out.json"), "--", *TRAIN]) == 0
    job = ClusterJob(TRAIN, load_recipe("debug").digest())
    assert capsys.readouterr().out.splitlines()[-1] == job.command_line()
    assert json.loads((tmp_path / "out.json").read_text())["result"] == {
        "submission_id": job.submission_id,
        "command": job.command_line(),
        "submitted": False,
    }
    assert not cluster.addresses


# ---- submission


def test_a_job_submitted_twice_runs_once(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 0
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 0
    captured = capsys.readouterr()
    assert "has job s2v-train-" in captured.out + captured.err
    job = ClusterJob(TRAIN, load_recipe("debug").digest())
    assert list(cluster.jobs) == [job.submission_id]
    made = cluster.jobs[job.submission_id]
    assert shlex.split(made["entrypoint"]) == ["python", "-m", "s2v_ray", *TRAIN]
    assert made["runtime_env"] == {"excludes": job.runtime_env({})["excludes"], "working_dir": "."}


def test_a_job_that_another_process_submits_first_runs_once(cluster: StubCluster) -> None:
    job = ClusterJob(("train",), "")
    lists = iter([[], [SimpleNamespace(submission_id=job.submission_id)]])
    cluster.jobs[job.submission_id] = {}
    cluster.list_jobs = lambda: next(lists)  # type: ignore[method-assign]
    assert submit(job, {}) is False
    assert not cluster.tailed


def test_the_environment_is_passed_by_name(cluster: StubCluster) -> None:
    job = ClusterJob(("train",), "", variables=("S2V_DEBUG",), address="http://head:8265", pip="requirements.txt")
    assert submit(job, {"S2V_DEBUG": "1", "OTHER": "2"})
    runtime_env = cluster.jobs[job.submission_id]["runtime_env"]
    assert runtime_env["env_vars"] == {"S2V_DEBUG": "1"}
    assert runtime_env["pip"] == "requirements.txt"
    assert cluster.addresses == ["http://head:8265"]


def test_headers_are_those_of_rays_command_line(cluster: StubCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(ClusterJob(("train",), ""), {})
    monkeypatch.setenv("RAY_JOB_HEADERS", '{"Authorization": "Bearer x"}')
    submit(ClusterJob(("train",), "", attempt=2), {})
    assert cluster.headers == [None, {"Authorization": "Bearer x"}]


def test_an_image_has_no_working_directory(cluster: StubCluster) -> None:
    job = ClusterJob(("train",), "", image="r/i:1")
    assert submit(job, {})
    assert cluster.jobs[job.submission_id]["runtime_env"] == {"image_uri": "r/i:1"}


def test_logs_are_printed_until_the_end(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(ClusterJob(("train",), ""), {})
    assert capsys.readouterr().out == "step 1\nstep 2\nstep 3\n"


def test_a_failed_job_is_an_error(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.status, cluster.message = (
        JobStatus.FAILED,
        "Job entrypoint command failed with exit code 1, last available logs:\nlast",
    )
    job = ClusterJob(("train",), "")
    message = r"status FAILED \(Job entrypoint command failed with exit code 1\); .*--attempt 2 tries again"
    with pytest.raises(SubmitError, match=message) as caught:
        submit(job, dict(os.environ))
    assert "\n" not in str(caught.value)
    assert "step 3" in capsys.readouterr().out
    cluster.jobs.clear()
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 1


def test_a_stopped_job_is_an_error(cluster: StubCluster) -> None:
    cluster.status = JobStatus.STOPPED
    with pytest.raises(SubmitError, match="ended with status STOPPED; .*--attempt 2 tries again"):
        submit(ClusterJob(("train",), ""), {})


def test_a_refused_job_is_an_error_with_the_reason(cluster: StubCluster) -> None:
    cluster.error = "ValueError: the runtime environment is not valid"
    with pytest.raises(
        SubmitError, match="the cluster refuses job s2v-train-.*: ValueError: the runtime environment is not valid$"
    ):
        submit(ClusterJob(("train",), ""), {})


def test_a_cluster_that_does_not_respond(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 1
    assert "Failed to connect to Ray at address: http://127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "advice"), [("disabled", "set RAY_AUTH_MODE=token"), ("token", "is not the cluster's")]
)
def test_a_cluster_that_demands_a_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str, advice: str
) -> None:
    def refuse(address: str | None, headers: object) -> None:
        raise AuthenticationError("Authentication required\n\na page of advice")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", refuse)
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "the cluster demands a token" in line and advice in line


# ---- inputs


def test_the_same_command_on_new_input_is_another_job(cluster: StubCluster, tmp_path: Path) -> None:
    corpus, student, videos = (str(tmp_path / name) for name in ("corpus", "student", "videos"))
    train = ("train", corpus, str(tmp_path / "run"), "--student", student, "--recipe", "debug")
    ingest = ("ingest", videos, corpus, "--recipe", "debug")

    def submitted(command: tuple[str, ...]) -> bool:
        before = len(cluster.jobs)
        assert cli.main(["submit", "--yes", "--", *command]) == 0
        return len(cluster.jobs) > before

    for place in ("corpus", "student/bundle", "videos"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "corpus" / "manifest.json").write_text('{"clips": 1}')
    (tmp_path / "student" / "bundle" / "manifest.json").write_text('{"sha256": 1}')
    (tmp_path / "videos" / "a.mp4").write_text("a")
    assert submitted(train) and not submitted(train)
    assert submitted(ingest) and not submitted(ingest)
    (tmp_path / "videos" / "b.mp4").write_text("b")
    assert submitted(ingest) and not submitted(ingest)
    assert not submitted(train)
    (tmp_path / "corpus" / "manifest.json").write_text('{"clips": 2}')
    assert submitted(train) and not submitted(ingest)
    (tmp_path / "student" / "bundle" / "manifest.json").write_text('{"sha256": 2}')
    assert submitted(train) and not submitted(train)


def test_inputs_that_cannot_be_read_here_are_said(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 0
    assert "the submission id does not depend on the inputs" in "".join(capsys.readouterr())


# ---- jobs


def test_jobs_are_listed_followed_and_stopped(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--", *TRAIN]) == 0
    (job,) = cluster.jobs
    capsys.readouterr()
    assert cli.main(["jobs"]) == 0
    assert capsys.readouterr().out.split() == [job, "SUCCEEDED", "0:01:30", "python", "-m", "s2v_ray", *TRAIN]
    assert cli.main(["jobs", job]) == 0
    assert capsys.readouterr().out == f"step 1\nstep 2\nstep 3\n{job}: SUCCEEDED\n"
    cluster.status = JobStatus.FAILED
    assert cli.main(["jobs", job]) == 1
    assert cli.main(["jobs", job, "--stop"]) == 0
    assert cluster.stopped == [job]
    assert cli.main(["jobs", "other"]) == 1
    assert "no job other" in capsys.readouterr().err
    assert cli.main(["jobs", "--stop"]) == 1


# ---- errors before submission


def test_a_wrong_command_is_found_before_submission(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--", *TRAIN, "--set", "gan.stepz=1"]) == 1
    assert "did you mean 'gan.steps'" in capsys.readouterr().err
    assert cli.main(["submit", "--yes", "--", "dance"]) == 2
    assert cli.main(["submit", "--yes"]) == 2
    assert not cluster.addresses


def test_an_unset_variable_is_named(cluster: StubCluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "--yes", "--env", "NOT_SET_HERE", "--", *TRAIN]) == 1
    assert "not set here: NOT_SET_HERE" in capsys.readouterr().err
    assert not cluster.addresses
