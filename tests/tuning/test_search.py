"""Searchers: which values the next trial gets, given the trials so far."""

from __future__ import annotations

from pathlib import Path

from s2v_ray.tuning.search import STARTUP_TRIALS, make_study, suggest
from s2v_ray.tuning.space import draw
from s2v_ray.tuning.trials import Trial
from tests.helpers.sweeps import add_trial, make_sweep


def test_tpe_depends_on_the_table_alone_and_improves(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path), searcher="tpe", objectives=["mouth_l1"], metric="mouth_l1")
    trials: list[Trial] = []
    for number in range(24):
        params = suggest(sweep.space, sweep.recipe, trials, number)
        assert params == suggest(sweep.space, sweep.recipe, trials, number), (
            "a resumed sweep continues as an uninterrupted one"
        )
        trial = Trial(number, params, "finished")
        loss = abs(params["gan.discriminators.frame.start"] - 4) + (params["gan.discriminators.frame.interval"] != 2)
        trial.add_point({"step": 12, "segment": 0, "start": 0, "at": 0.0, "mouth_l1": float(loss)})
        trials.append(trial)
    early, late = ([t.scores()["mouth_l1"] for t in part] for part in (trials[:STARTUP_TRIALS], trials[-8:]))
    assert sum(late) / 8 < sum(early) / STARTUP_TRIALS
    running, failed = Trial(24, trials[0].params), Trial(25, trials[0].params, "failed")
    assert [t.state.name for t in make_study(sweep.space, sweep.recipe, [*trials, running, failed]).trials[-3:]] == [
        "COMPLETE",
        "RUNNING",
        "FAIL",
    ]


def test_random_search_draws_from_the_space(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    found = [suggest(sweep.space, sweep.recipe, [], n) for n in range(5)]
    assert found == [draw(sweep.space, sweep.recipe, n) for n in range(5)]
    assert len({p["gan.lr"] for p in found}) == 5


def test_tpe_supports_several_objectives_and_conditional_parameters(tmp_path: Path) -> None:
    interval = {"distribution": "choice", "values": [1, 2], "when": {"gan.discriminators.sync.lr": [0.001]}}
    parameters = {
        "gan.discriminators.sync.lr": {"distribution": "choice", "values": [0.0, 0.001]},
        "gan.discriminators.sync.interval": interval,
        "gan.lr": {"distribution": "loguniform", "low": 0.001, "high": 0.01},
    }
    sweep = make_sweep(str(tmp_path), searcher="tpe", parameters=parameters)
    trials: list[Trial] = []
    for number in range(STARTUP_TRIALS + 6):
        trial = Trial(number, suggest(sweep.space, sweep.recipe, trials, number), "finished")
        assert ("gan.discriminators.sync.interval" in trial.params) == (trial.params["gan.discriminators.sync.lr"] > 0)
        trial.add_point(
            {
                "step": 12,
                "segment": 0,
                "start": 0,
                "at": 0.0,
                "mouth_l1": trial.params["gan.lr"],
                "psnr": float(number % 3),
            }
        )
        trials.append(trial)
    assert {len(t.params) for t in trials} == {2, 3}


def test_a_study_holds_values_and_directions_of_all_objectives(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    trial = add_trial(sweep, 3, [(12, 0.25, 11.0)])
    study = make_study(sweep.space, sweep.recipe, [trial])
    assert [d.name for d in study.directions] == ["MINIMIZE", "MAXIMIZE"], "mouth_l1 and psnr"
    assert study.trials[0].values == [0.25, 11.0]
    assert study.trials[0].params == {
        "gan.lr": 0.004,
        "gan.discriminators.frame.interval": 1,  # the position of 2 in [1, 2, 4]
        "gan.discriminators.frame.start": 3,
    }


def test_trials_without_all_objectives_count_as_failed(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    trial = Trial(0, {"gan.lr": 0.001}, "stopped")
    trial.add_point({"step": 3, "segment": 0, "start": 0, "at": 0.0, "mouth_l1": 0.5})
    assert make_study(sweep.space, sweep.recipe, [trial]).trials[0].state.name == "FAIL"
