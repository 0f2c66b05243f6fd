"""Schedulers: what stops or changes running trials. ``SCHEDULERS`` is the table of all.

This module isolates what is used of Ray Tune's private API: the state of ``PopulationBasedTraining`` and the
controller.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler

from s2v_ray.training.checkpoint import latest
from s2v_ray.tuning.space import better, explore, steps_of
from s2v_ray.tuning.trials import Sweep, Trial


def make_scheduler(sweep: Sweep, trials: list[Trial]) -> TrialScheduler:
    """Make the scheduler of a sweep.

    Args:
        sweep: the sweep.
        trials: trials of earlier attempts, which later ones are compared with.
    """
    return SCHEDULERS[sweep.space.scheduler](sweep, trials)


def no_scheduler(sweep: Sweep, trials: list[Trial]) -> TrialScheduler:  # noqa: ARG001  # same signature as the others
    """Run every trial to its end."""
    return FIFOScheduler()


def asha(sweep: Sweep, trials: list[Trial]) -> TrialScheduler:
    """Asynchronous successive halving, with the results of earlier trials."""
    space, steps = sweep.space, steps_of(sweep.space, sweep.recipe)
    grace = max(_validation_interval(sweep), round(space.asha.grace * steps))
    scheduler = ASHAScheduler(
        **_criterion(sweep), max_t=steps, grace_period=grace, reduction_factor=space.asha.reduction
    )
    for trial in trials:
        _replay(scheduler, trial, _resume_step(sweep, trial) if trial.state == "running" else steps)
    return scheduler


def pbt(sweep: Sweep, trials: list[Trial]) -> TrialScheduler:
    """Population based training in which all trials are compared at the same step."""
    space, recipe = sweep.space, sweep.recipe
    count = itertools.count(sum(len(sweep.segments(t.number)) for t in trials))

    def change(config: dict[str, Any]) -> dict[str, Any]:
        rng = random.Random(f"{space.seed}-explore-{next(count)}")
        return {
            **config,
            "trial": {**config["trial"], "params": explore(space, recipe, config["trial"]["params"], rng)},
        }

    random.seed(space.seed)  # Ray Tune draws donors from Python's global generator
    return SynchronousPopulation(
        **_criterion(sweep),
        perturbation_interval=space.pbt.every * _validation_interval(sweep),
        quantile_fraction=space.pbt.quantile,
        custom_explore_fn=change,
        require_attrs=False,
        log_config=False,
    )


SCHEDULERS: dict[str, Callable[[Sweep, list[Trial]], TrialScheduler]] = {
    "none": no_scheduler,
    "asha": asha,
    "pbt": pbt,
}


def _validation_interval(sweep: Sweep) -> int:
    return max(1, steps_of(sweep.space, sweep.recipe) // sweep.space.validations)


def _criterion(sweep: Sweep) -> dict[str, str]:
    metric = sweep.space.primary_metric
    return {"time_attr": "step", "metric": f"val_{metric}", "mode": "min" if better(metric) == "lower" else "max"}


def _replay(scheduler: ASHAScheduler, trial: Trial, until: int) -> None:
    """Report an earlier trial's results up to step ``until`` to a new scheduler."""
    proxy: Any = SimpleNamespace(trial_id=f"past-{trial.number}")
    scheduler.on_trial_add(None, proxy)
    for point in trial.curve:
        if point["step"] <= until:
            result = {f"val_{k}": v for k, v in point.items()} | {"step": point["step"]}
            scheduler.on_trial_result(None, proxy, result)


def _resume_step(sweep: Sweep, trial: Trial) -> int:
    """Return the step from which an interrupted trial continues. Later validations are repeated."""
    segments = sweep.segments(trial.number)
    found = latest(sweep.run_of(trial.number, segments[-1])) if segments else None
    return found.step if found else 0


class SynchronousPopulation(PopulationBasedTraining):  # type: ignore[misc]  # ray has no types
    """Population based training in which a trial that reports waits until all have reported.

    Both of Ray Tune's own ways restart every run at every comparison: one pauses all trials, the other pauses those
    that report while another is starting. A start is slow. Here the decisions also do not depend on the order of
    reports.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.waiting: dict[Any, dict[str, Any]] = {}
        self.ended: set[Any] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Let the trial wait, or perturb the population if it is the last to report."""
        since = result[self._time_attr] - self._trial_state[trial].last_perturbation_time
        if since < self._perturbation_interval:
            return str(TrialScheduler.CONTINUE)
        self.waiting[trial] = result
        return self._perturb_if_ready(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """See ``TrialScheduler``."""
        super().on_trial_complete(tune_controller, trial, result)
        self._remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """See ``TrialScheduler``."""
        super().on_trial_error(tune_controller, trial)
        self._remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """See ``TrialScheduler``."""
        super().on_trial_remove(tune_controller, trial)
        self._remove(tune_controller, trial)

    def _remove(self, tune_controller: Any, trial: Any) -> None:
        self.ended.add(trial)
        self._trial_state[trial].last_score = None  # no other trial starts from it any more
        self.waiting.pop(trial, None)
        if self.waiting:
            self._perturb_if_ready(tune_controller, None)

    def _perturb_if_ready(self, tune_controller: Any, reporting: Any) -> str:
        """If all have reported, replace the worst and let the others continue; return the decision on ``reporting``."""
        if any(t not in self.waiting for t in tune_controller.get_trials() if t not in self.ended):
            return str(TrialScheduler.NOOP)
        reported, self.waiting = self.waiting, {}
        for trial, result in reported.items():
            self._save_trial_state(self._trial_state[trial], result[self._time_attr], result, trial)
        decision = str(TrialScheduler.NOOP)
        # The best first: others start from their checkpoints.
        for trial in sorted(reported, key=lambda t: -self._trial_state[t].last_score):
            if super().on_trial_result(tune_controller, trial, reported[trial]) == TrialScheduler.NOOP:
                continue  # replaced
            if trial is reporting:
                decision = str(TrialScheduler.CONTINUE)
            else:
                getattr(tune_controller, "_tune_controller", tune_controller)._schedule_trial_train(trial)
        return decision
