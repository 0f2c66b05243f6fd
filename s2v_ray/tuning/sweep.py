"""A sweep on Ray Tune: each trial is a whole run of Ray Train, watched by its validations.

Ray Tune decides who starts, stops and copies whom. What must survive a kill is ours (``trials``): on ``resume`` a fresh Tuner hears of the
past from that table, so nothing is unpickled, no ended trial runs again, and one that was cut off goes on from its run's own checkpoints.

A trial trains from validation to validation and waits for Ray Tune's decision in between. One that is stopped ends its run in the ordinary way:
the placement group of a run whose driver is merely killed outlives it.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from s2v_ray import storage
from s2v_ray.cluster.runtime import nodes_for, run_config_storage, start_ray
from s2v_ray.config import Recipe
from s2v_ray.training.checkpoint import latest
from s2v_ray.training.launch import launch
from s2v_ray.training.resources import worker_resources
from s2v_ray.training.runs import RunSpec
from s2v_ray.tuning.search import suggest
from s2v_ray.tuning.space import Params, Space, SpaceError, better, explore, steps_of, trial_recipe
from s2v_ray.tuning.trials import Segment, Sweep, Trial, claim_sweep, has_bundle, open_sweep, summary

Progress = Callable[[str], None]

TRIAL_MEMORY = 2**28
"""Bytes that Ray reserves for the process of a trial, which only waits: no CPU, so that whole CPUs stay whole for workers and decoding."""
RETRIES = 3
"""Times that a trial starts again when a node or a process dies under it. It goes on from its checkpoints."""
CLEANUP_SECONDS = 120.0
"""Longest wait for a run to end that is told to."""
POINTER = "pointer.json"
"""What Ray Tune takes for a trial's checkpoint: where the run's own lies."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
"""What Ray Tune copies from the driver's environment into that of its trials, which every node writes to its logs. Nodes have their own."""
ENDED = "ended"
"""Key of a trial's last result: "finished", or "stopped" or "failed" with the reason."""


def run_sweep(
    uri: str,
    space: Space,
    recipe: Recipe,
    corpus: str,
    *,
    student: str | None = None,
    resume: bool = False,
    progress: Progress = print,
) -> dict[str, Any]:
    """Runs all trials of a space, or those that are left of a sweep that was cut off.

    Args:
        uri: where the sweep lies, or will.
        student: bundle of the student that all GAN trials hear with; None: one is distilled first, by the recipe, and shared.
        resume: goes on with the sweep that lies there, if one does.

    Returns:
        ``summary`` of the sweep.

    Raises:
        SpaceError: not even one trial fits the cluster, or not the whole population.
        ArtifactError: corpus, student or folder cannot be used; or the sweep was interrupted.
    """
    uri, corpus = storage.absolute(uri), storage.absolute(corpus)
    student = None if student is None else storage.absolute(student)
    sweep = claim_sweep(uri, space, recipe, corpus, student, resume)
    table = Table(sweep, progress)
    past = [t for t in table.trials.values() if t.state != "running"]
    if len(past) == space.trials:
        return summary(sweep, past)
    start_ray()
    fits, share = slots([n["Resources"] for n in nodes_for("train")], recipe, space.at_once)
    if space.scheduler == "pbt" and space.trials > fits:
        advice = f"lower trials or parallel.cpus_per_worker, or set at_once: {space.trials}"
        raise SpaceError(f"a population trains all at once: {space.trials} trials need room, {fits} fit; {advice}")
    if space.task == "gan" and student is None and not has_bundle(storage.join(uri, "student")):
        progress(f"sweep {space.name}: distils the student that all trials share")
        launch(RunSpec("distill", recipe, corpus, storage.join(uri, "student")))
    to_go, cut_off = space.trials - len(past), len(table.trials) - len(past)
    progress(
        f"sweep {space.name}: {to_go} of {space.trials} trials to go, {cut_off} of them cut off; {min(fits, to_go)} at a time"
    )
    _tune(table, share, fits)
    return summary(sweep, list(table.trials.values()))


def slots(
    nodes: Sequence[Mapping[str, float]], recipe: Recipe, wanted: int | None = None
) -> tuple[int, dict[str, float]]:
    """How many trials run at a time without one waiting for what another holds, and the share of the cluster that each may use.

    A trial holds its workers, all or none; and needs room for one task that decodes their clips. Every trial's share has both, and is
    packed onto the nodes to see that no piece is left over.

    Args:
        nodes: the resources of each node.
        wanted: so many, sharing CPUs if need be; None: as many as get all the CPUs they ask for.

    Raises:
        SpaceError: not one trial, or not as many as wanted, fits.
    """
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    parallel = recipe.parallel
    most = int(total["CPU"] // (parallel.workers * parallel.cpus_per_worker + 1))
    if parallel.gpu:
        most = min(most, int(total["GPU"] // parallel.workers))
    reason = f"the nodes have {total['CPU']:g} CPUs and {total['GPU']:g} GPUs"
    for count in [wanted] if wanted else range(max(1, most), 0, -1):
        share = {"CPU": total["CPU"] / count, "GPU": float(total["GPU"] // count)}
        try:
            resources = worker_resources(recipe, share)
        except storage.ArtifactError as e:
            reason = str(e)
            continue
        pieces = [dict(resources.per_worker)] * (parallel.workers * count)
        if _pack(
            [*pieces, *([{"CPU": resources.task_cpus}] * count), *([{"memory": float(TRIAL_MEMORY)}] * count)], nodes
        ):
            return count, share
    what, advice = (
        (f"{wanted} trials at once do", "at_once or parallel.workers")
        if wanted
        else ("one trial does", "parallel.workers")
    )
    raise SpaceError(f"{what} not fit: {reason}; lower {advice}")


def _pack(pieces: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether all pieces fit, the largest first, each into the first node with room."""
    free = [dict(node) for node in nodes]
    for piece in sorted(pieces, key=lambda p: (-p.get("GPU", 0.0), -p.get("CPU", 0.0))):
        room = next((n for n in free if all(n.get(k, 0.0) >= v - 1e-6 for k, v in piece.items())), None)
        if room is None:
            return False
        for name, amount in piece.items():
            room[name] -= amount
    return True


class Table(tune.Callback):
    """The trials of a sweep in the driver's memory; hears of Ray Tune what becomes of them, and writes each change down."""

    def __init__(self, sweep: Sweep, progress: Progress) -> None:
        self.sweep, self.progress = sweep, progress
        self.trials = {t.number: t for t in sweep.trials()}

    def add(self) -> Trial:
        """A new trial, written down before anything is done for it."""
        number = len(self.trials)
        space, recipe = self.sweep.space, self.sweep.recipe
        trial = Trial(number, suggest(space, recipe, list(self.trials.values()), number))
        trial_recipe(space, recipe, trial.params)  # values that do not fit together end the sweep here, in one sentence
        self.sweep.write(trial)
        self.trials[number] = trial
        return trial

    def cut_off(self) -> list[Trial]:
        return [t for t in self.trials.values() if t.state == "running"]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        own = self._of(trial)
        own.started()
        self.sweep.write(own)
        self.progress(f"trial {own.number} starts: {_shown(trial.config['trial']['params'])}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        own = self._of(trial)
        own.seen()
        if "segment" in result:
            figures = {k.removeprefix("val_"): v for k, v in result.items() if k.startswith("val_")}
            own.note({**{k: result[k] for k in ("step", "segment", "start")}, "at": time.time(), **figures})
            shown = "  ".join(
                f"{m} {figures[m]:.4f}"
                for m in dict.fromkeys((self.sweep.space.leading, *self.sweep.space.objectives))
                if m in figures
            )
            self.progress(
                f"trial {own.number}: step {result['step']}/{steps_of(self.sweep.space, self.sweep.recipe)}  {shown}"
            )
        if result.get(ENDED):
            own.state, _, own.reason = result[ENDED].partition(": ")
        self.sweep.write(own)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        own = self._of(trial)
        own.seen()
        if own.state == "running":  # no last word of its own: the scheduler ended it
            own.state, own.reason = "stopped", f"worse than others ({self.sweep.space.scheduler})"
        self.sweep.write(own)
        self.progress(f"trial {own.number} {own.state}{f': {own.reason}' if own.reason else ''}")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        own = self._of(trial)
        own.seen()
        own.state, own.reason = "failed", f"its process died {RETRIES + 1} times"
        self.sweep.write(own)
        self.progress(f"trial {own.number} failed: {own.reason}; {trial.error_file}")

    def _of(self, trial: Any) -> Trial:
        return self.trials[int(str(trial))]


class _Suggestions(Searcher):
    """Hands trials to Ray Tune: first those that were cut off, then new ones."""

    def __init__(self, table: Table, share: dict[str, float]) -> None:
        super().__init__()
        self.table, self.share = table, share
        self.waiting = table.cut_off()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        if self.waiting:
            return _config(self.table.sweep, self.waiting.pop(0), self.share)
        if len(self.table.trials) == self.table.sweep.space.trials:
            return str(Searcher.FINISHED)
        return _config(self.table.sweep, self.table.add(), self.share)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The table hears of it."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing of ours is kept by Ray Tune."""


def _config(sweep: Sweep, trial: Trial, share: dict[str, float]) -> dict[str, Any]:
    segments = sweep.segments(trial.number)
    return {
        "sweep": sweep.uri,
        "share": share,
        "trial": {"number": trial.number, "params": segments[-1].params if segments else trial.params},
    }


def _tune(table: Table, share: dict[str, float], fits: int) -> None:
    sweep, space = table.sweep, table.sweep.space
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # verbose=0 does not keep the new one quiet
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(CREDENTIALS)
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # the last word of a trial that failed has no figures
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    settings: dict[str, Any] = {
        "scheduler": _scheduler(table),
        "trial_name_creator": _name,
        "trial_dirname_creator": _name,
    }
    settings["reuse_actors"] = (
        space.scheduler != "pbt"
    )  # a population replaces trials in mid-run, which was seen with a process for each alone
    param_space: dict[str, Any] = {}
    if space.scheduler == "pbt":
        while len(table.trials) < space.trials:
            table.add()
        configs = [_config(sweep, t, share) for t in table.cut_off()]
        param_space = {"sweep": sweep.uri, "share": share, "trial": tune.grid_search([c["trial"] for c in configs])}
    else:
        to_go = space.trials - sum(t.state != "running" for t in table.trials.values())
        settings |= {"search_alg": _Suggestions(table, share), "num_samples": to_go, "max_concurrent_trials": fits}
    trainable = tune.with_resources(_Trial, tune.PlacementGroupFactory([{"memory": TRIAL_MEMORY}]))
    tune.Tuner(
        trainable,
        param_space=param_space,
        tune_config=tune.TuneConfig(**settings),
        run_config=_run_config(sweep, table),
    ).fit()
    if left := table.cut_off():
        raise storage.ArtifactError(
            f"the sweep was interrupted, {len(left)} trials are not at their end: --resume goes on with it"
        )


def _name(trial: Any) -> str:
    """Trials keep their number as their name, whatever values a population gives them."""
    return f"{trial.config['trial']['number']:05d}"


def _run_config(sweep: Sweep, table: Table) -> tune.RunConfig:
    return tune.RunConfig(
        name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",  # a fresh one each time: Ray Tune's own files are not read again
        callbacks=[table],
        failure_config=tune.FailureConfig(max_failures=RETRIES),
        verbose=0,
        **run_config_storage(storage.join(sweep.uri, "tune")),
    )


def _scheduler(table: Table) -> TrialScheduler:
    space, recipe = table.sweep.space, table.sweep.recipe
    steps = steps_of(space, recipe)
    every = max(1, steps // space.validations)
    lead = {
        "time_attr": "step",
        "metric": f"val_{space.leading}",
        "mode": "min" if better(space.leading) == "lower" else "max",
    }
    if space.scheduler == "asha":
        grace = max(every, round(space.asha.grace * steps))
        scheduler = ASHAScheduler(**lead, max_t=steps, grace_period=grace, reduction_factor=space.asha.reduction)
        for trial in table.trials.values():
            _tell(scheduler, trial, _goes_on_from(table.sweep, trial) if trial.state == "running" else steps)
        return scheduler
    if space.scheduler == "pbt":
        count = itertools.count(sum(len(table.sweep.segments(n)) for n in table.trials))

        def change(config: dict[str, Any]) -> dict[str, Any]:
            rng = random.Random(f"{space.seed}-explore-{next(count)}")
            return {
                **config,
                "trial": {**config["trial"], "params": explore(space, recipe, config["trial"]["params"], rng)},
            }

        interval = space.pbt.every * every
        random.seed(space.seed)  # Ray Tune draws donors from Python's own generator
        return _Population(
            **lead,
            perturbation_interval=interval,
            quantile_fraction=space.pbt.quantile,
            custom_explore_fn=change,
            require_attrs=False,
            log_config=False,
        )
    return FIFOScheduler()


class _Population(PopulationBasedTraining):
    """Ray Tune's population based training, in step: who reports waits, in its process and without training, until all have reported.

    Ray Tune's own two ways cost a restart of every run at every look: one pauses all of them, the other whoever reports while another is
    only starting. A start takes long. And what is decided here does not depend on who came first.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.waiting: dict[Any, dict[str, Any]] = {}
        self.gone: set[Any] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result[self._time_attr] - self._trial_state[trial].last_perturbation_time < self._perturbation_interval:
            return str(TrialScheduler.CONTINUE)
        self.waiting[trial] = result
        return self._look(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        self._leave(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_error(tune_controller, trial)
        self._leave(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, trial)
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: Any, trial: Any) -> None:
        self.gone.add(trial)
        self._trial_state[trial].last_score = None  # nobody begins from it any more
        self.waiting.pop(trial, None)
        if self.waiting:
            self._look(tune_controller, None)

    def _look(self, tune_controller: Any, reporting: Any) -> str:
        """If all have reported: replaces the worst and lets the others go on. Returns what becomes of the one reporting."""
        if any(t not in self.waiting for t in tune_controller.get_trials() if t not in self.gone):
            return str(TrialScheduler.NOOP)
        reported, self.waiting = self.waiting, {}
        for trial, result in reported.items():
            self._save_trial_state(self._trial_state[trial], result[self._time_attr], result, trial)
        decision = str(TrialScheduler.NOOP)
        for trial in sorted(
            reported, key=lambda t: -self._trial_state[t].last_score
        ):  # the best first: their checkpoints are what others begin from
            if super().on_trial_result(tune_controller, trial, reported[trial]) == TrialScheduler.NOOP:
                continue  # replaced
            if trial is reporting:
                decision = str(TrialScheduler.CONTINUE)
            else:
                getattr(tune_controller, "_tune_controller", tune_controller)._schedule_trial_train(trial)
        return decision


def _tell(scheduler: ASHAScheduler, trial: Trial, until: int) -> None:
    """What a past trial reached at each rung up to step ``until``, so that later ones are held against it."""
    stand_in: Any = SimpleNamespace(trial_id=f"past-{trial.number}")
    scheduler.on_trial_add(None, stand_in)
    for point in trial.curve:
        if point["step"] <= until:
            scheduler.on_trial_result(
                None, stand_in, {f"val_{k}": v for k, v in point.items()} | {"step": point["step"]}
            )


def _goes_on_from(sweep: Sweep, trial: Trial) -> int:
    """The step after which a trial that was cut off trains on. Validations after it come again, and would count twice."""
    segments = sweep.segments(trial.number)
    found = latest(sweep.run_of(trial.number, segments[-1])) if segments else None
    return found.step if found else 0


class _Trial(tune.Trainable):
    """A trial, in a process of its own: a run of Ray Train, which this class lets go on from validation to validation.

    So it never trains beyond what Ray Tune has decided, and a trial that is stopped or replaced ends its run and frees what it held.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.sweep = open_sweep(config["sweep"])
        self.number = int(self.trial_name)
        self.pointer: dict[str, Any] = {}
        self.thread: threading.Thread | None = None
        self.events: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()
        self.answers: queue.Queue[bool] = queue.Queue()
        self.waiting = False  # whether the run waits for an answer
        self.final: dict[str, Any] = {}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in a process that has imported all it needs, which takes seconds; False where the last one's run does not end."""
        self.cleanup()
        if self.thread is not None and self.thread.is_alive():
            return False
        self.setup(new_config)
        return True

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Another trial's pointer makes this one begin from that one's checkpoint."""
        self.pointer = storage.read_json(storage.join(checkpoint, POINTER))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        storage.write_json(storage.join(checkpoint_dir, POINTER), self.pointer)

    def step(self) -> dict[str, Any]:
        """Trains up to the next validation, or the end."""
        if self.thread is None:
            self._start()
        elif self.waiting:
            self.answers.put(True)
        while True:
            event = self.events.get()
            self.waiting = isinstance(event, dict)
            result = self._result(event)
            if result is not None:
                return result
            self.answers.put(True)

    def cleanup(self) -> None:
        """Ends the run, if it is not at its end, and waits until it has let go of its workers."""
        self.answers.put(False)
        if self.thread is not None:
            self.thread.join(CLEANUP_SECONDS)

    def _start(self) -> None:
        segments = self._segments()
        own = segments[-1]
        self.run = self.sweep.run_of(self.number, own)
        self.at = {"segment": len(segments) - 1, "start": own.step}

        def train() -> None:
            sweep = self.sweep
            student: dict[str, Any] = (
                {"student": sweep.student or storage.join(sweep.uri, "student", "bundle")}
                if sweep.space.task == "gan"
                else {}
            )
            try:
                recipe = trial_recipe(sweep.space, sweep.recipe, own.params)
                spec = RunSpec(sweep.space.task, recipe, sweep.corpus, self.run, **student, begin_from=own.begin_from)
                launch(spec, cluster=self.config["share"], on_record=self._hear)
                self.events.put(None)
            except Exception as e:
                self.events.put(e)

        self.thread = threading.Thread(target=train, daemon=True)
        self.thread.start()

    def _hear(self, record: dict[str, Any]) -> bool:
        self.events.put(record)
        return self.answers.get()

    def _segments(self) -> list[Segment]:
        """The trial's runs, with a new one at the end where it is to begin from another trial's checkpoint."""
        segments, params, pointer = self.sweep.segments(self.number), self.config["trial"]["params"], self.pointer
        if not segments:
            segments = [Segment("run-0", params)]
        elif (
            pointer
            and pointer["trial"] != self.number
            and (segments[-1].begin_from, segments[-1].params) != (pointer["checkpoint"], params)
        ):
            segments.append(
                Segment(f"run-{len(segments)}", params, pointer["checkpoint"], pointer["trial"], pointer["step"])
            )
        self.sweep.write_segments(self.number, segments)
        return segments

    def _result(self, event: dict[str, Any] | Exception | None) -> dict[str, Any] | None:
        """What Ray Tune is told of a record, or of the run's end; None where it is told nothing. ``done``: nobody is to replace it any more."""
        space, steps = self.sweep.space, steps_of(self.sweep.space, self.sweep.recipe)
        if event is None:
            return {**self.final, **self.at, "step": steps, ENDED: "finished", "done": True}
        if isinstance(event, Exception):
            if not isinstance(event, ValueError) or isinstance(event, storage.StoreError):
                raise event  # a node, a process or the network: Ray Tune tries again
            return {ENDED: f"failed: {event}", "done": True}
        if dead := set(event.get("alarms", ())).intersection(space.stop_on):
            return {ENDED: f"stopped: {', '.join(sorted(dead))}", "done": True}
        found = {k: v for k, v in event.items() if k.startswith("val_")}
        if not found:
            return None
        if absent := [m for m in dict.fromkeys((*space.objectives, space.leading)) if f"val_{m}" not in found]:
            reason = f"validation does not measure {', '.join(absent)} on this corpus: `s2v teach` makes the judges"
            return {ENDED: f"failed: {reason}", "done": True}
        if event["step"] == steps:
            self.final = found  # told when the bundle is there
            return None
        self.pointer = {
            "trial": self.number,
            "step": event["step"],
            "checkpoint": storage.join(self.run, "checkpoints", f"step-{event['step']:08d}"),
        }
        return {**found, **self.at, "step": event["step"]}


def _shown(params: Params) -> str:
    return "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())
