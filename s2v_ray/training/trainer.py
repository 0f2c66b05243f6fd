"""The one trainer: it trains every network of this package (teachers, sync networks, student, GAN).

A task defines the step; the trainer adds progress, metrics, validation, samples, checkpoints, resume and the handling
of losses that are not finite.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from s2v_ray import storage
from s2v_ray.config import LogConfig
from s2v_ray.logs import Progress, log_progress
from s2v_ray.training import checkpoint, collective
from s2v_ray.training.alarms import DATA_ALARMS, Alarm, AlarmMonitor
from s2v_ray.training.engine import NonFiniteLossError
from s2v_ray.training.engine.state import Sharded
from s2v_ray.training.lease import Attempt, begin_attempt
from s2v_ray.training.loggers import MetricsFile, RunLoggers, Sample
from s2v_ray.training.saving import Saver
from s2v_ray.training.stalls import DATA, EXPORT, STEP, VALIDATION
from s2v_ray.training.window import Record, Scalar, Window

logger = logging.getLogger(__name__)

NOTICE_INTERVAL = 8
"""Steps between queries for a preemption notice: each is a barrier of all workers."""
MAX_SKIPPED_IN_A_ROW = 10
"""Consecutive batches without a finite loss that end a run: the cause is then not a single batch."""
SPEED = ("clips_per_second", "data_wait", "seconds_left", "skipped")
"""Entries of a training record about the trainer itself; all others are scalars of the task."""


class Batch(Protocol):
    """Input of one step on one worker."""

    ids: list[str]

    def to(self, device: torch.device | str) -> Self:
        """Copy the batch to ``device``."""


class Task(Protocol):
    """A network in training. All workers call every method equally often."""

    @property
    def sharded(self) -> Mapping[str, Sharded]:
        """Engines and averages by name: what all workers save together."""

    @property
    def alarms(self) -> Sequence[Alarm]:
        """Alarms on the task's scalars."""

    @property
    def diagnostics(self) -> frozenset[str]:
        """Scalars that are recorded for alarms but not shown on progress lines."""

    @property
    def note(self) -> str:
        """Remark on the validation that is logged once, or ""."""

    def step(self, batch: Any, step: int) -> Mapping[str, Scalar]:
        """Update every player once; return detached scalars to record, with the same names on every worker."""

    def state(self) -> dict[str, Any]:
        """Return this worker's tensors and plain values beyond ``sharded``, for the checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""

    def validate(self, batches: Iterable[Any]) -> dict[str, float]:
        """Measure the model on this worker's batches; return the same figures on all workers."""

    def samples(self, batch: Any) -> list[Sample]:
        """Generate from a batch's speech for visual inspection; [] if the task generates nothing."""

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Write the product of the run (worker 0)."""


class TrainingDivergedError(ValueError):
    """Losses are not finite, and not for a single batch only."""


@dataclass(frozen=True)
class LoopConfig:
    """What the trainer needs to know of a run.

    Attributes:
        run: URI of the run folder.
        token: of the run's lease, which the caller holds (``training.lease``).
        kind: name of the task on progress lines.
        steps: number of steps of the whole run.
        clips: clips in a step over all workers.
        log: intervals of records, validations, samples and checkpoints.
        device: device of this worker.
        begin_from: URI of another run's checkpoint, from which a run without a checkpoint of its own starts.
    """

    run: str
    token: str
    kind: str
    steps: int
    clips: int
    log: LogConfig
    device: torch.device
    begin_from: str = ""


@dataclass(frozen=True)
class DataSources:
    """This worker's batches.

    Attributes:
        train: start step -> the batches from this step on, at least up to the last step.
        validation: the batches of a validation, the same each time; None if there are none.
        samples: the batch for sample videos; None for no samples.
    """

    train: Callable[[int], Iterator[Batch]]
    validation: Callable[[], Iterable[Batch]] | None = None
    samples: Callable[[], Batch] | None = None


@dataclass(frozen=True)
class Hooks:
    """Connections of the trainer to its environment.

    Attributes:
        report: receives every record of ``metrics.jsonl``, on all workers equally often.
        report_after_checkpoint: report a validation only when the checkpoint of its step is complete, so that another
            run can start from it.
        preemption_notice: returns which machines will be taken away, or ""; the same on all workers. A new notice
            triggers a checkpoint.
        activity: receives step and activity (``training.stalls``) when an activity begins.
    """

    report: Callable[[Record], None] | None = None
    report_after_checkpoint: bool = False
    preemption_notice: Callable[[], str] | None = None
    activity: Callable[[int, str], None] | None = None


class Trainer:
    """Trains a task up to the last step, from the run's last complete checkpoint if there is one.

    A batch whose loss is not finite is skipped, logged and counted. Checkpoints are written concurrently with training;
    one that cannot be written is logged, and training continues.
    """

    def __init__(self, task: Task, data: DataSources, config: LoopConfig, hooks: Hooks | None = None) -> None:
        self.task, self.data, self.config, self.hooks = task, data, config, hooks or Hooks()
        self.log, self.kind = config.log, config.kind
        first = collective.worker()[0] == 0
        self.attempt: Attempt = collective.from_first(begin_attempt(config.run, config.token) if first else None)
        self.start = self._resume()
        self.record: Record = {"step": self.start}
        self.validated: dict[str, float] = {}
        self.window = Window(config.steps, config.clips)
        self.alarms = AlarmMonitor((*DATA_ALARMS, *task.alarms))
        self.skipped_in_a_row = 0
        self.handled_notice = ""

    def run(self) -> Record:
        """Train, validate and export.

        Returns:
            the last training record and the figures of the last validation.

        Raises:
            TrainingDivergedError: ``MAX_SKIPPED_IN_A_ROW`` batches without a finite loss, or one directly before a
                checkpoint. No checkpoint and no bundle is written then.
            ArtifactError: the checkpoint cannot be continued here.
            LeaseLostError: on worker 0, if another driver or a newer attempt writes to the run.
        """
        first, steps = collective.worker()[0] == 0, self.config.steps
        self.metrics = MetricsFile(self.config.run, self.start)
        self.loggers = RunLoggers(self.config.run, self.start, self.log.loggers) if first else None
        self.saver = Saver(self.attempt, self.log.keep_checkpoints, self.log.keep_best)
        batches = self.data.train(self.start) if self.start < steps else iter(())
        with contextlib.ExitStack() as closing:
            if self.loggers is not None:
                closing.callback(self.loggers.close)
            closing.callback(self.metrics.close)
            closing.callback(self.saver.wait)
            for step in range(self.start, steps):
                self._step(step, batches)
            if self.start == steps and self.data.validation is not None:  # a finished run only validates and exports
                self._validate(steps)
                self._report(_validation_record(steps, self.validated))
        if first:
            self.attempt.check()
        self._note(steps, EXPORT)
        self.task.export(self.config.run, self.validated)
        return {**self.record, **self.validated}

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        """One step, and what is due after it."""
        asked = time.monotonic()
        self._note(step, DATA)
        batch = next(batches).to(self.config.device)
        self._note(step, STEP)
        data_seconds = time.monotonic() - asked
        done = step + 1
        last = done == self.config.steps
        save = self._is_preempted(done) or last or done % self.log.checkpoint_every == 0
        self._update(batch, step, data_seconds, checkpoint_due=save)
        if save or done % self.log.log_every == 0:
            self._record()
        validate = self.data.validation is not None and (last or _is_due(self.log.validate_every, done))
        if validate:
            self._validate(done)
        draw = (
            self.data.samples is not None and self.log.samples_every and (last or _is_due(self.log.samples_every, done))
        )
        if draw:
            self._draw_samples(done)
        if save:
            self.saver.save(done, self.task.sharded, self.task.state(), self.validated if validate else {})
        if validate and self.hooks.report is not None:
            if save and self.hooks.report_after_checkpoint:
                self.saver.wait()
            self._report(_validation_record(done, self.validated))
        if save or validate or draw:
            self.window.restart_clock()

    def _note(self, step: int, doing: str) -> None:
        if self.hooks.activity is not None:
            self.hooks.activity(step, doing)

    def _update(self, batch: Batch, step: int, data_seconds: float, *, checkpoint_due: bool) -> None:
        """Run the task's step, or skip a batch whose loss is not finite."""
        try:
            self.window.add(step, self.task.step(batch, step), data_seconds)
            self.skipped_in_a_row = 0
        except NonFiniteLossError as e:
            self.window.add(step, {}, data_seconds)
            self.window.skipped += 1
            self.skipped_in_a_row += 1
            ids = ", ".join(batch.ids[:3])
            logger.warning(
                "%s: the loss is not finite at step %d (%s): this batch is skipped (%s, ...)", self.kind, step, e, ids
            )
            if self.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW or checkpoint_due:
                self.saver.wait()
                raise self._diverged(step, e) from None

    def _is_preempted(self, done: int) -> bool:
        """Whether there is a new preemption notice after ``done`` steps."""
        query = self.hooks.preemption_notice
        if query is None or done % NOTICE_INTERVAL:
            return False
        notice = query()
        if notice in ("", self.handled_notice):
            return False
        self.handled_notice = notice
        logger.warning("%s: %s: a checkpoint is taken at step %d", self.kind, notice, done)
        return True

    def _record(self) -> None:
        """Write a training record and update the alarms."""
        self.record = record = self.window.flush()
        for alarm in self.alarms.update(record):
            logger.warning("%s ALARM %s (step %d): %s", self.kind, alarm.name, record["step"], alarm.advice)
        if self.alarms.active():
            record["alarms"] = self.alarms.active()
        self._write(record)
        losses = losses_of(record, self.task.diagnostics)
        progress = Progress(
            self.kind,
            int(record["step"]),
            self.config.steps,
            figures={**losses, "clips/s": record["clips_per_second"], "data wait": record["data_wait"]},
            seconds_left=record["seconds_left"],
        )
        log_progress(logger, progress, "%s", progress_line(self.kind, record, self.config.steps, losses))
        self._report(record)

    def _validate(self, step: int) -> None:
        """Validate without an effect on training: the state of the random generators is restored."""
        assert self.data.validation is not None
        self._note(step, VALIDATION)
        if self.task.note and not self.metrics.has_validation:
            logger.warning("%s: %s", self.kind, self.task.note)
        random = checkpoint.random_state()
        self.validated = self.task.validate(b.to(self.config.device) for b in self.data.validation())
        checkpoint.set_random_state(random)
        self._write(_validation_record(step, self.validated))
        figures = "  ".join(f"{name} {value:.4f}" for name, value in self.validated.items())
        logger.info("%s validation at step %d: %s", self.kind, step, figures)

    def _draw_samples(self, step: int) -> None:
        assert self.data.samples is not None
        samples = self.task.samples(self.data.samples().to(self.config.device))
        if self.loggers is not None and samples:
            self.attempt.check()
            self.loggers.samples(step, samples)

    def _write(self, record: Record) -> None:
        """Write a record to ``metrics.jsonl`` and the loggers (worker 0)."""
        if self.loggers is not None:
            self.attempt.check()
            self.metrics.append(record)
            self.loggers.record(record)

    def _report(self, record: Record) -> None:
        if self.hooks.report is not None:
            self.hooks.report(record)

    def _resume(self) -> int:
        """Load the last complete checkpoint; return its step, or 0."""
        begin_from = self.config.begin_from
        resumed = checkpoint.resume(self.config.run, self.task.sharded, begin_from)
        if resumed is None:
            return 0
        found, state = resumed
        self.task.load_state(state)
        origin = "" if found.uri.startswith(storage.join(self.config.run, "")) else f", {begin_from}"
        logger.info("%s continues from the checkpoint of step %d%s", self.kind, found.step, origin)
        return found.step

    def _diverged(self, step: int, error: NonFiniteLossError) -> TrainingDivergedError:
        last = checkpoint.latest(self.config.run)
        kept = (
            f"the last good checkpoint is {checkpoint.uri_of(self.config.run, last.step)}"
            if last
            else "there is no checkpoint yet"
        )
        return TrainingDivergedError(
            f"{self.kind}: the loss is not finite at step {step} ({error}); {kept}; "
            "try a lower learning rate or grad_clip"
        )


def progress_line(kind: str, record: Record, steps: int, losses: Mapping[str, float]) -> str:
    """Format a training record as one line."""
    shown = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
    minutes, seconds = divmod(round(record["seconds_left"]), 60)
    speed = (
        f"{record['clips_per_second']:.0f} clips/s, {record['data_wait']:.0%} waiting for data, "
        f"{minutes} min {seconds:02d} s left"
    )
    speed += f", {record['skipped']:.0f} batches skipped" if "skipped" in record else ""
    return f"{kind} {int(record['step'])}/{steps}  {shown}  ({speed})"


def losses_of(record: Record, diagnostics: frozenset[str]) -> dict[str, float]:
    """Return the scalars of a record that people read, the total loss first."""
    hidden = {"step", "alarms", *SPEED, *diagnostics}
    return {name: record[name] for name in sorted(record, key=lambda k: (k != "loss", k)) if name not in hidden}


def _validation_record(step: int, figures: Mapping[str, float]) -> Record:
    return {"step": step, **{f"val_{name}": value for name, value in figures.items()}}


def _is_due(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0
