"""The report of a sweep, and the winner's bundle."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import asdict
from pathlib import Path

import av
import pytest

from s2v_ray import cli, storage
from s2v_ray.models.bundle import load_bundle
from s2v_ray.tuning.export import export_best
from s2v_ray.tuning.report import exploits, format_table, write_report
from s2v_ray.tuning.trials import Segment, Sweep
from tests.helpers.sweeps import add_trial, make_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """Six trials; the last gave up its run at step 6 and went on from trial 1's checkpoint."""
    made = make_sweep(str(tmp_path))
    for n in range(5):
        add_trial(made, n, [(3, 0.5, 9.0), (6, 0.4 - 0.01 * n, 10.0 + n), (12, 0.3 - 0.01 * n, 10.5)])
    add_trial(made, 5, [(3, 0.9, 5.0)], "stopped", "worse than others (asha)")
    last = add_trial(made, 6, [(3, 0.8, 5.0), (6, 0.7, 5.5)])
    new = {**last.params, "gan.lr": 0.0025, "gan.discriminators.frame.interval": 1}
    checkpoint = storage.join(made.folder(1), "run-0", "checkpoints", "step-00000006")
    made.write_segments(6, [Segment("run-0", last.params), Segment("run-1", new, checkpoint, 1, 6)])
    last.add_point({"step": 12, "segment": 1, "start": 6, "at": 0.0, "mouth_l1": 0.1, "psnr": 20.0})
    made.write(last)
    trial = tmp_path / "sweep" / "trials" / "00006"
    (trial / "run-1").mkdir(parents=True)
    (trial / "run-0" / "bundle").rename(trial / "run-1" / "bundle")
    return made


def test_exploits_tell_who_from_whom_what_and_with_what_effect(sweep: Sweep) -> None:
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
    assert page.count("<svg") == 4, "two curves, parallel coordinates, importances"
    for key in sweep.space.parameters:
        assert key in page
    (video,) = re.findall(r"data:video/mp4;base64,([^\"]+)", page)
    with av.open(io.BytesIO(base64.b64decode(video))) as shown:
        assert shown.streams.video[0].frames > 20 and len(shown.streams.audio) == 1
    assert cli.main(["tune", "report", sweep.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["trial", "state", "steps", "mouth_l1", "↓", "psnr", "↑", "values"]
    assert "6*  finished     12" in lines[7] and lines[-1] == f"report: {sweep.uri}/report.html"


def test_a_sweep_of_nothing_yet(tmp_path: Path) -> None:
    empty = make_sweep(str(tmp_path))
    with pytest.raises(storage.ArtifactError, match="has no trial yet"):
        write_report(empty)
    add_trial(empty, 0, [], "running")
    assert cli.main(["tune", "report", empty.uri]) == 1, "no winner"
    assert "No trial has finished yet" in storage.read_bytes(write_report(empty)["report"]).decode()
    assert format_table(empty).splitlines()[-1] == "no trial has finished"
    with pytest.raises(storage.ArtifactError, match="no trial of the sweep .* has finished"):
        export_best(empty, str(tmp_path / "out"))


def test_the_winners_bundle_carries_its_lineage(sweep: Sweep, tmp_path: Path) -> None:
    out = str(tmp_path / "best")
    assert cli.main(["export", "--best", sweep.uri, "-o", out]) == 0
    model, card = load_bundle(out, "speech2video")
    original, before = load_bundle(storage.join(sweep.folder(6), "run-1", "bundle"), "speech2video")
    assert card["sha256"] == before["sha256"] and card["recipe"] == before["recipe"]
    assert all(v.equal(original.state_dict()[k]) for k, v in model.state_dict().items())
    lineage = card["lineage"]
    assert lineage["corpus"] == "c" and lineage["config_digest"] == before["lineage"]["config_digest"]
    assert {k: lineage["sweep"][k] for k in ("uri", "trial", "space_digest", "config_digest")} == {
        "uri": sweep.uri,
        "trial": 6,
        "space_digest": sweep.space.digest(),
        "config_digest": sweep.recipe.digest(),
    }
    assert lineage["sweep"]["runs"][1]["parent"] == 1 and lineage["sweep"]["params"]["gan.lr"] == 0.0025
    assert card["metrics"] == {"l1": 0.5, "mouth_l1": 0.1, "psnr": 20.0}
