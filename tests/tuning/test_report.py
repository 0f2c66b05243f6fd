"""The report of a sweep."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import asdict
from pathlib import Path

import av
import pytest

from s2v_ray import cli, storage
from s2v_ray.tuning.report import exploits, format_table, write_report
from s2v_ray.tuning.trials import Sweep
from tests.helpers.sweeps import add_trial, make_exploited_sweep, make_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_exploited_sweep(str(tmp_path))


def test_exploits_name_both_trials_the_changed_values_and_the_effect(sweep: Sweep) -> None:
    (found,) = exploits(sweep, sweep.trials())
    values = asdict(found)
    changed = values.pop("changed")
    assert values == {
        "trial": 6,
        "left": 6,
        "before": 0.7,
        "parent": 1,
        "step": 6,
        "parent_value": 0.39,
        "until": 12,
        "after": 0.1,
    }
    assert ("gan.lr", 0.002, 0.0025) in changed and ("gan.discriminators.frame.interval", 2, 1) in changed


def test_the_report_is_one_file_with_everything_in_it(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    page = storage.read_bytes(write_report(sweep)["report"]).decode()
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page) and "url(http" not in page, "self-contained"
    assert "The winner is trial 6" in page and "1 × worse than others (asha)" in page
    assert "trial 1, step 6" in page and "0.7000" in page
    assert page.count("<svg") == 5, "two curves, Pareto front, parallel coordinates, importances"
    for key in sweep.space.parameters:
        assert key in page
    videos = re.findall(r"data:video/mp4;base64,([^\"]+)", page)
    assert len(videos) == 2 * 4, "the real clip and three trials, of two clips"
    sounds = []
    for video in videos:
        with av.open(io.BytesIO(base64.b64decode(video))) as shown:
            assert shown.streams.video[0].frames >= 20
            sounds.append(len(shown.streams.audio))
    assert sounds == [1, 0, 0, 0] * 2
    assert cli.main(["tune", "report", sweep.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trial", "state", "steps", "mouth_l1", "↓", "psnr", "↑", "values"]
    assert "6*  finished     12" in lines[7] and lines[-1] == f"report: {sweep.uri}/report.html"


def test_a_sweep_without_finished_trials_has_no_winner(tmp_path: Path) -> None:
    empty = make_sweep(str(tmp_path))
    with pytest.raises(storage.ArtifactError, match="has no trial yet"):
        write_report(empty)
    add_trial(empty, 0, [], "running")
    assert cli.main(["tune", "report", empty.uri]) == 1, "no winner"
    assert "No trial has finished yet" in storage.read_bytes(write_report(empty)["report"]).decode()
    assert format_table(empty).splitlines()[-1] == "no trial has finished"
