"""The table of a sweep: what it keeps, what it refuses, and what it sums up."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.tuning.space import parse_space
from s2v_ray.tuning.trials import Segment, Trial, claim_sweep, open_sweep, summary
from tests.helpers.sweeps import add_trial, make_sweep


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    made = [add_trial(sweep, n, [(3, 0.4, 10.0), (6, 0.3, 12.0)]) for n in (1, 0)]
    again = open_sweep(sweep.uri)
    assert again == sweep and again.trials() == made[::-1]
    assert again.segments(0) == [Segment("run-0", made[1].params)] and again.segments(5) == []
    (tmp_path / "sweep" / "trials" / "00000" / "trial.json").write_text("{")
    with pytest.raises(storage.ArtifactError, match="trial.json is damaged"):
        again.trials()


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    same = (sweep.uri, sweep.space, sweep.recipe, sweep.corpus, sweep.student)
    with pytest.raises(storage.ArtifactError, match="holds this sweep already: --resume continues it"):
        claim_sweep(*same, False)
    assert claim_sweep(*same, True) == sweep
    other = parse_space({**sweep.space.model_dump(mode="json"), "trials": 3}, sweep.recipe)
    with pytest.raises(storage.ArtifactError, match="differs in the space: name another folder"):
        claim_sweep(sweep.uri, other, *same[2:], True)
    with pytest.raises(storage.ArtifactError, match="differs in the recipe"):
        claim_sweep(sweep.uri, sweep.space, sweep.recipe.model_copy(update={"seed": 7}), *same[3:], True)
    with pytest.raises(storage.ArtifactError, match="there is no sweep at"):
        open_sweep(str(tmp_path / "nothing"))


def test_steps_are_those_of_all_runs_and_lost_ones_are_told_once() -> None:
    trial = Trial(0, {})
    for step in (3, 6, 9):
        trial.add_point({"step": step, "segment": 0, "start": 0, "at": 0.0, "l1": 1.0 / step})
    trial.add_point(
        {"step": 6, "segment": 0, "start": 0, "at": 0.0, "l1": 0.5}
    )  # resumed from the checkpoint of step 3
    assert [p["step"] for p in trial.curve] == [3, 6] and trial.scores() == {"l1": 0.5} and trial.steps() == 6
    trial.add_point({"step": 12, "segment": 1, "start": 9, "at": 0.0, "l1": 0.1})  # began from another's step 9
    assert trial.steps() == 9


def test_summary_counts_and_picks(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    assert summary(sweep, [])["winner"] is None
    add_trial(sweep, 0, [(12, 0.30, 12.0)])
    add_trial(sweep, 1, [(12, 0.20, 11.0)])
    add_trial(sweep, 2, [(12, 0.40, 10.0)])
    add_trial(sweep, 3, [(3, 0.01, 99.0)], "stopped", "sync_at_chance")  # however good: there is no bundle of it
    found = summary(sweep, sweep.trials())
    assert found["trials"] == {"finished": 3, "stopped": 1} and found["reasons"] == {"sync_at_chance": 1}
    assert found["pareto"] == [0, 1] and found["winner"] == 0, "mean ranks 1.5 and 1.5: the lower number"
    assert found["steps"] == 39 and found["scores"] == {"mouth_l1": 0.30, "psnr": 12.0}
    assert found["run"] == storage.join(sweep.uri, "trials", "00000", "run-0")
