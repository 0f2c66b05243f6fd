"""Schedulers of Ray Tune with the past of a sweep; controller and trials are fakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.training import lease
from s2v_ray.training.checkpoint import CHECKPOINT_SCHEMA
from s2v_ray.tuning.schedulers import make_scheduler
from s2v_ray.tuning.trials import Sweep
from tests.helpers.sweeps import add_trial, make_sweep


def scheduler_of(sweep: Sweep) -> Any:
    return make_scheduler(sweep, sweep.trials())


def test_a_resumed_asha_knows_what_earlier_trials_reached(tmp_path: Path) -> None:
    """Rungs at steps 3 and 6; of the past at step 3 (0.2, 0.3, 0.4, 0.5) the best half, above 0.35 negated, go on."""
    sweep = make_sweep(str(tmp_path), scheduler="asha", metric="mouth_l1", asha={"grace": 0.25, "reduction": 2})
    for n in range(4):
        add_trial(sweep, n, [(3, 0.2 + 0.1 * n, 1.0), (6, 0.2, 1.0), (12, 0.1, 1.0)])
    scheduler: Any = scheduler_of(sweep)

    class Later:
        trial_id = "later"

    decisions = []
    for value in (0.34, 0.36):
        scheduler.on_trial_add(None, Later())
        decisions.append(scheduler.on_trial_result(None, Later(), {"step": 3, "val_mouth_l1": value}))
        scheduler.on_trial_remove(None, Later())
        scheduler._brackets[0]._rungs[-1][1].pop("later")
    assert decisions == ["CONTINUE", "STOP"]


@pytest.mark.parametrize(("checkpoint", "expected"), [(6, [3, 6]), (3, [3]), (None, [])])
def test_of_a_trial_that_was_cut_off_asha_knows_what_will_not_come_again(
    tmp_path: Path, checkpoint: int | None, expected: list[int]
) -> None:
    """Validated at step 6 and killed, while the checkpoint of that step was being written or after."""
    sweep = make_sweep(str(tmp_path), scheduler="asha", metric="mouth_l1", asha={"grace": 0.25, "reduction": 2})
    add_trial(sweep, 0, [(3, 0.3, 1.0), (6, 0.2, 1.0)], state="running")
    if checkpoint:
        run = sweep.run_of(0, sweep.segments(0)[0])
        folder = storage.join(run, "checkpoints", f"step-{checkpoint:08d}", "attempt-0002")
        storage.write_manifest(folder, "checkpoint", CHECKPOINT_SCHEMA, step=checkpoint, workers=1, sha256={})
        lease.begin_attempt(run, lease.acquire(run)).commit(checkpoint)
    scheduler: Any = scheduler_of(sweep)
    assert sorted(step for step, reached in scheduler._brackets[0]._rungs if "past-0" in reached) == expected


def test_a_population_waits_for_all_and_then_replaces_the_worst(tmp_path: Path) -> None:
    """Three trials, worked out by hand; the controller and the trials are stand-ins."""
    sweep = make_sweep(
        str(tmp_path), scheduler="pbt", metric="mouth_l1", trials=3, pbt={"quantile": 0.34, "resample": 0.0}
    )
    population: Any = scheduler_of(sweep)
    log: list[tuple[str, int]] = []
    trials = [FakeTrial(n) for n in range(3)]
    controller = FakeController(trials, log)
    for trial in trials:
        population.on_trial_add(controller, trial)

    def report(trial: FakeTrial, step: int, value: float) -> str:
        return str(population.on_trial_result(controller, trial, {"step": step, "val_mouth_l1": value}))

    assert [report(trials[0], 3, 0.5), report(trials[1], 3, 0.9)] == ["NOOP", "NOOP"] and log == []
    assert report(trials[2], 3, 0.2) == "CONTINUE", "the best, and the last to report, goes on"
    assert log == [("save", 2), ("train", 0), ("pause", 1)]
    new, old = trials[1].config["trial"]["params"], trials[2].config["trial"]["params"]
    assert new["gan.lr"] / old["gan.lr"] in (pytest.approx(0.8), pytest.approx(1.25)), "the donor's values, perturbed"
    log.clear()
    trials[1].status = "RUNNING"  # Ray Tune has started it again
    assert [report(trials[2], 6, 0.1), report(trials[1], 6, 0.3)] == ["NOOP", "NOOP"]
    population.on_trial_complete(controller, trials[0], {"step": 12})
    assert log == [("save", 2), ("train", 2), ("pause", 1)], "one that ends keeps nobody waiting"


class FakeTrial:
    status = "RUNNING"

    def __init__(self, number: int) -> None:
        self.number, self.trial_id, self.experiment_tag = number, f"t{number}", f"{number}"
        self.config: dict[str, Any] = {"trial": {"number": number, "params": {"gan.lr": 0.001 * (1 + number)}}}
        manager = type(
            "Manager",
            (),
            {"checkpoint_config": type("Config", (), {"num_to_keep": None})(), "_latest_checkpoint_result": None},
        )()
        self.run_metadata: Any = type("Metadata", (), {"checkpoint_manager": manager})()

    def is_finished(self) -> bool:
        return False

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag


class FakeController:
    search_alg = None

    def __init__(self, trials: list[FakeTrial], log: list[tuple[str, int]]) -> None:
        self.trials, self.log = trials, log

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def pause_trial(self, trial: FakeTrial, should_checkpoint: bool) -> None:
        self.log.append(("pause", trial.number))
        trial.status = "PAUSED"

    def _schedule_trial_save(self, trial: FakeTrial, result: Any) -> str:
        self.log.append(("save", trial.number))
        return f"checkpoint of {trial.number}"

    def _schedule_trial_train(self, trial: FakeTrial) -> None:
        self.log.append(("train", trial.number))
