"""s2v submit and s2v doctor: what is printed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2v_ray import cli
from s2v_ray.config import load_recipe
from tests.helpers.commands import fails

TRAIN = ["train", "s3://b/corpus", "s3://b/run", "--student", "s3://b/student", "--recipe", "debug"]


def test_a_command_is_printed_and_not_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["submit", "--json", str(tmp_path / "out.json"), "--", *TRAIN]) == 0
    printed = capsys.readouterr().out.splitlines()[-1]
    assert printed.startswith("ray job submit") and printed.rstrip().endswith(" ".join(TRAIN))
    result = json.loads((tmp_path / "out.json").read_text())["result"]
    assert result["submission_id"].startswith("s2v-train-") and result["submitted"] is False


def test_the_id_follows_command_recipe_and_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    ids = []
    for options, words in (([], TRAIN), ([], [*TRAIN, "--set", "seed=3"]), (["--attempt", "2"], TRAIN), ([], TRAIN)):
        assert cli.main(["submit", *options, "--", *words]) == 0
        ids.append(capsys.readouterr().out.partition("--submission-id ")[2].split()[0])
    assert len(set(ids[:3])) == 3 and ids[3] == ids[0]
    assert load_recipe("debug").digest() != load_recipe("debug", ["seed=3"]).digest()


@pytest.mark.parametrize(
    ("words", "status"), [(["dance"], 2), (["train", "s3://b/corpus"], 2), ([*TRAIN, "--set", "gan.stepps=3"], 1)]
)
def test_a_command_that_cannot_run_is_found_before_it_is_submitted(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["submit", "--yes", "--", *words]) == status
    captured = capsys.readouterr()
    assert "ray job submit" not in captured.out and captured.err


def test_doctor_prints_a_line_for_each_check_and_fails_with_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", str(tmp_path / "file" / "inside")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fail") for line in lines) and any(line.startswith("ok") for line in lines)


def test_plan_needs_its_inputs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    argv = [
        "plan",
        "--corpus",
        tmp_path / "corpus",
        "--cluster",
        tmp_path / "aws.yaml",
        "--measured",
        tmp_path / "m.yaml",
    ]
    assert "no such file" in fails(capsys, *argv, "--recipe", "debug")
