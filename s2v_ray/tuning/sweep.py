"""A sweep on Ray Tune: each trial is a whole run of Ray Train, reported at its validations.

Ray Tune decides which trials start, stop and copy others. What must survive a kill is ours (``trials``): on ``resume``
a new Tuner gets the past from that table, so nothing is unpickled, no ended trial runs again, and an interrupted one
continues from its own run's checkpoints.

A trial trains from validation to validation and waits for Ray Tune's decision in between. A trial that is stopped ends
its run in the ordinary way, because the placement group of a run outlives its driver if that is killed.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from s2v_ray import storage
from s2v_ray.cluster.runtime import nodes_for, run_config_storage, start_ray
from s2v_ray.config import Recipe
from s2v_ray.tracking.entries import publish
from s2v_ray.training.launch import launch
from s2v_ray.training.runs import RunSpec
from s2v_ray.tuning.parameters import Params, SpaceError
from s2v_ray.tuning.placement import TRIAL_MEMORY, Slots, trial_slots
from s2v_ray.tuning.schedulers import make_scheduler
from s2v_ray.tuning.search import suggest
from s2v_ray.tuning.space import Space, steps_of, trial_recipe
from s2v_ray.tuning.tracked import describe_sweep
from s2v_ray.tuning.trial_run import ENDED, Pointer, TrialRun
from s2v_ray.tuning.trials import Sweep, Trial, claim_sweep, has_bundle, open_sweep, summary

logger = logging.getLogger(__name__)

RETRIES = 3
"""How often a trial is restarted when its node or process fails. It continues from its checkpoints."""
POINTER = "pointer.json"
"""File in Ray Tune's checkpoint of a trial: a ``Pointer``."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
"""Environment variables that Ray Tune would copy from the driver to its trials, and that every node writes to its logs.
Nodes have credentials of their own."""


def run_sweep(
    uri: str, space: Space, recipe: Recipe, corpus: str, *, student: str | None = None, resume: bool = False
) -> dict[str, Any]:
    """Run all trials of a space, or the remaining ones of a sweep that was interrupted.

    Args:
        uri: URI of the sweep.
        space: what is searched.
        recipe: recipe that the trials vary.
        corpus: URI of the corpus.
        student: bundle of the student of all GAN trials; None: one is distilled first, by the recipe, and shared.
        resume: continue the sweep at ``uri``, if there is one.

    Returns:
        ``summary`` of the sweep.

    Raises:
        SpaceError: not a single trial fits the cluster, or not the whole population.
        ArtifactError: corpus, student or folder cannot be used; or the sweep was interrupted.
    """
    uri, corpus = storage.absolute(uri), storage.absolute(corpus)
    student = None if student is None else storage.absolute(student)
    sweep = claim_sweep(uri, space, recipe, corpus, student, resume)
    table = SweepCallback(sweep)
    past = [t for t in table.trials.values() if t.state != "running"]
    if len(past) == space.trials:
        return summary(sweep, past)
    publish(recipe.log.loggers, describe_sweep(sweep))  # before its trials, which are shown under it
    start_ray()
    slots = trial_slots([n["Resources"] for n in nodes_for("train")], recipe, space.max_concurrent)
    if space.scheduler == "pbt" and space.trials > slots.count:
        raise SpaceError(
            f"a population trains all at once: {space.trials} trials need room, {slots.count} fit; lower trials or "
            f"parallel.cpus_per_worker, or set max_concurrent: {space.trials}"
        )
    if space.task == "gan" and student is None and not has_bundle(storage.join(uri, "student")):
        logger.info("sweep %s: distilling the student that all trials share", space.name)
        launch(RunSpec("distill", recipe, corpus, storage.join(uri, "student"), sweep=uri))
    to_go, interrupted = space.trials - len(past), len(table.trials) - len(past)
    logger.info(
        "sweep %s: %d of %d trials to go, %d of them interrupted; %d at a time",
        space.name, to_go, space.trials, interrupted, min(slots.count, to_go),
    )  # fmt: skip
    _tune(table, slots)
    return summary(sweep, list(table.trials.values()))


class SweepCallback(tune.Callback):  # type: ignore[misc]  # ray has no types
    """Keeps the table of trials: receives every event of Ray Tune and writes each change to the sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.trials = {t.number: t for t in sweep.trials()}

    def add(self) -> Trial:
        """Add a trial, and write it before anything is done for it."""
        number = len(self.trials)
        space, recipe = self.sweep.space, self.sweep.recipe
        trial = Trial(number, suggest(space, recipe, list(self.trials.values()), number))
        trial_recipe(space, recipe, trial.params)  # values that do not fit together end the sweep here
        self.sweep.write(trial)
        self.trials[number] = trial
        return trial

    def interrupted(self) -> list[Trial]:
        """Return the trials that have started and not ended."""
        return [t for t in self.trials.values() if t.state == "running"]

    def on_trial_start(self, trial: Any, **_: Any) -> None:
        """See ``tune.Callback``."""
        entry = self._entry(trial)
        entry.started()
        self.sweep.write(entry)
        logger.info("trial %d starts: %s", entry.number, _format_params(trial.config["trial"]["params"]))

    def on_trial_result(self, trial: Any, result: dict[str, Any], **_: Any) -> None:
        """See ``tune.Callback``."""
        entry, space = self._entry(trial), self.sweep.space
        entry.touch()
        if "segment" in result:
            figures = {k.removeprefix("val_"): v for k, v in result.items() if k.startswith("val_")}
            at = {k: result[k] for k in ("step", "segment", "start")}
            entry.add_point({**at, "at": time.time(), **figures})
            names = dict.fromkeys((space.primary_metric, *space.objectives))
            shown = "  ".join(f"{m} {figures[m]:.4f}" for m in names if m in figures)
            steps = steps_of(space, self.sweep.recipe)
            logger.info("trial %d: step %d/%d  %s", entry.number, result["step"], steps, shown)
        if result.get(ENDED):
            entry.state, _, entry.reason = result[ENDED].partition(": ")
        self.sweep.write(entry)

    def on_trial_complete(self, trial: Any, **_: Any) -> None:
        """See ``tune.Callback``."""
        entry = self._entry(trial)
        entry.touch()
        if entry.state == "running":  # without a last result of its own, it was stopped by the scheduler
            entry.state, entry.reason = "stopped", f"worse than others ({self.sweep.space.scheduler})"
        self.sweep.write(entry)
        logger.info("trial %d %s%s", entry.number, entry.state, f": {entry.reason}" if entry.reason else "")

    def on_trial_error(self, trial: Any, **_: Any) -> None:
        """See ``tune.Callback``."""
        entry = self._entry(trial)
        entry.touch()
        entry.state, entry.reason = "failed", f"its process died {RETRIES + 1} times"
        self.sweep.write(entry)
        logger.warning("trial %d failed: %s; %s", entry.number, entry.reason, trial.error_file)

    def _entry(self, trial: Any) -> Trial:
        return self.trials[int(str(trial))]


class TableSearcher(Searcher):  # type: ignore[misc]  # ray has no types
    """Gives Ray Tune the interrupted trials first, then new ones."""

    def __init__(self, table: SweepCallback, share: dict[str, float]) -> None:
        super().__init__()
        self.table, self.share = table, share
        self.waiting = table.interrupted()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # noqa: ARG002  # Ray's signature
        """See ``Searcher``."""
        if self.waiting:
            return _trial_config(self.table.sweep, self.waiting.pop(0), self.share)
        if len(self.table.trials) == self.table.sweep.space.trials:
            return str(Searcher.FINISHED)
        return _trial_config(self.table.sweep, self.table.add(), self.share)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See ``Searcher``; the callback keeps the results."""

    def save(self, checkpoint_path: str) -> None:
        """See ``Searcher``; Ray Tune keeps none of our state."""


class Trainable(tune.Trainable):  # type: ignore[misc]  # ray has no types
    """Adapts a ``TrialRun`` to Ray Tune, in a process of its own."""

    def setup(self, config: dict[str, Any]) -> None:
        """See ``tune.Trainable``."""
        self.sweep = open_sweep(config["sweep"])
        self.trial_run = TrialRun(self.sweep, int(self.trial_name), config["trial"]["params"], config["share"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Use the process, whose imports take seconds, for the next trial; False if the last run does not end."""
        if not self.trial_run.stop():
            return False
        self.setup(new_config)
        return True

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Read a pointer; with another trial's, this trial starts from that one's checkpoint."""
        values = storage.read_json(storage.join(checkpoint, POINTER))
        self.trial_run.pointer = Pointer(**values) if values else None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the pointer to the newest checkpoint."""
        pointer = self.trial_run.pointer
        storage.write_json(storage.join(checkpoint_dir, POINTER), asdict(pointer) if pointer else {})

    def step(self) -> dict[str, Any]:
        """Train to the next validation, or to the end."""
        return self.trial_run.step()

    def cleanup(self) -> None:
        """End the run."""
        self.trial_run.stop()


def _trial_config(sweep: Sweep, trial: Trial, share: dict[str, float]) -> dict[str, Any]:
    segments = sweep.segments(trial.number)
    params = segments[-1].params if segments else trial.params
    return {"sweep": sweep.uri, "share": share, "trial": {"number": trial.number, "params": params}}


def _tune(table: SweepCallback, slots: Slots) -> None:
    sweep, space = table.sweep, table.sweep.space
    _set_up_ray_tune()
    settings: dict[str, Any] = {
        "scheduler": make_scheduler(sweep, list(table.trials.values())),
        "trial_name_creator": _trial_name,
        "trial_dirname_creator": _trial_name,
        # A population replaces running trials; that is tested with one process for each trial only.
        "reuse_actors": space.scheduler != "pbt",
    }
    param_space: dict[str, Any] = {}
    if space.scheduler == "pbt":
        while len(table.trials) < space.trials:
            table.add()
        configs = [_trial_config(sweep, t, slots.share) for t in table.interrupted()]
        param_space = {
            "sweep": sweep.uri,
            "share": slots.share,
            "trial": tune.grid_search([c["trial"] for c in configs]),
        }
    else:
        to_go = space.trials - sum(t.state != "running" for t in table.trials.values())
        searcher = TableSearcher(table, slots.share)
        settings |= {"search_alg": searcher, "num_samples": to_go, "max_concurrent_trials": slots.count}
    trainable = tune.with_resources(Trainable, tune.PlacementGroupFactory([{"memory": TRIAL_MEMORY}]))
    config = tune.TuneConfig(**settings)
    tune.Tuner(trainable, param_space=param_space, tune_config=config, run_config=_run_config(sweep, table)).fit()
    if left := table.interrupted():
        raise storage.ArtifactError(
            f"the sweep was interrupted, {len(left)} trials have not ended: --resume continues it"
        )


def _set_up_ray_tune() -> None:
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # verbose=0 does not silence the new output
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # the last result of a trial that failed has no metrics
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)


def _trial_name(trial: Any) -> str:
    """Trials keep their number as their name, whatever values a population gives them."""
    return f"{trial.config['trial']['number']:05d}"


def _run_config(sweep: Sweep, table: SweepCallback) -> tune.RunConfig:
    return tune.RunConfig(
        name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",  # new: Ray Tune's own files are not read again
        callbacks=[table],
        failure_config=tune.FailureConfig(max_failures=RETRIES),
        verbose=0,
        **run_config_storage(storage.join(sweep.uri, "tune")),
    )


def _format_params(params: Params) -> str:
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
