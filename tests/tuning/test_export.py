"""The winner of a sweep as a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import cli, storage
from s2v_ray.models.bundle import load_bundle
from s2v_ray.tuning.export import export_best
from s2v_ray.tuning.trials import Sweep
from tests.helpers.sweeps import add_trial, make_exploited_sweep, make_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return make_exploited_sweep(str(tmp_path))


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


def test_the_result_names_bundle_trial_and_scores(tmp_path: Path) -> None:
    made, out = make_sweep(str(tmp_path)), str(tmp_path / "best")
    add_trial(made, 0, [(12, 0.4, 10.0)])
    add_trial(made, 1, [(12, 0.3, 11.0)])
    add_trial(made, 2, [(3, 0.1, 20.0)], "stopped", "worse than others (asha)")
    result = export_best(made, out)
    assert (result["bundle"], result["trial"], result["scores"]) == (out, 1, {"mouth_l1": 0.3, "psnr": 11.0})
    sweep = result["lineage"]["sweep"]
    assert sweep["trials"] == {"finished": 2, "stopped": 1} and sweep["pareto"] == [1]
    assert sweep["params"]["gan.lr"] == 0.002 and len(sweep["runs"]) == 1


def test_a_sweep_without_finished_trials_is_refused(tmp_path: Path) -> None:
    empty = make_sweep(str(tmp_path))
    add_trial(empty, 0, [], "running")
    with pytest.raises(storage.ArtifactError, match="no trial of the sweep .* has finished"):
        export_best(empty, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
