"""The one loop, for distillation and GAN alike: steps, progress, metrics, checkpoints, and what to do about NaN."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from s2v_ray import storage
from s2v_ray.clip import ClipBatch
from s2v_ray.config import LogConfig
from s2v_ray.training import checkpoint, collective
from s2v_ray.training.alarms import DIAGNOSTICS, Watch
from s2v_ray.training.engine.base import Engine, NotFinite
from s2v_ray.training.loggers import Board, Sample

METRICS = "metrics.jsonl"
NOTICE_EVERY = 8
"""Steps between questions whether a machine is about to be taken away: asking is a word between all workers."""
SKIPS_IN_A_ROW = 10
"""Batches without a finite loss, one after another, that end a run: then it is not the data."""
NO_LOSSES = {"step", "clips_per_second", "data_wait", "seconds_left", "skipped", "alarms", *DIAGNOSTICS}
Scalar = Tensor | float


class Task(Protocol):
    """What is trained. Everything is called on all workers, equally often."""

    engines: dict[str, Engine]
    note: str
    """What a person should know of its validation, or ""."""

    def step(self, batch: ClipBatch, step: int) -> dict[str, Scalar]:
        """One update of every player; scalars to log, the same names on every worker. Detached."""

    def state(self) -> dict[str, Any]:
        """This worker's tensors and plain values beyond the engines', for the checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None: ...

    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]:
        """Figures of the model as it stands (``metrics.VALIDATION``), the same on all workers; each brings its own batches."""

    def samples(self, batch: ClipBatch) -> list[Sample]:
        """What it generates of a batch's speech, to be looked at; [] where it generates nothing."""

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Writes the bundle (worker 0) and ends."""


class TrainingDiverged(ValueError):
    """Losses are not finite, and not for one batch only."""


@dataclass
class Progress:
    """What happened since the last line: scalars averaged over steps and workers, speed, time left."""

    steps: int
    clips: int
    records: list[tuple[int, dict[str, Scalar]]] = field(default_factory=list)
    waited: float = 0.0
    skipped: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, step: int, scalars: dict[str, Scalar], waited: float) -> None:
        self.records.append((step, scalars))
        self.waited += waited

    def flush(self) -> dict[str, Any]:
        """Means of all scalars, the speed, and how many batches of the run were skipped; then starts anew."""
        names = sorted({name for _, scalars in self.records for name in scalars})
        means: dict[str, Any] = {}
        if names:
            values = torch.stack(
                [
                    torch.stack([torch.as_tensor(s.get(n, 0.0)).detach().float().cpu() for n in names])
                    for _, s in self.records
                ]
            )
            values = collective.mean(values)
            counts = torch.tensor([float(sum(n in s for _, s in self.records)) for n in names])
            means = dict(zip(names, (values.sum(0) / counts).tolist(), strict=True))
        last, n, elapsed = self.records[-1][0] + 1, len(self.records), max(1e-9, time.monotonic() - self.since)
        speed = {
            "clips_per_second": n * self.clips / elapsed,
            "data_wait": self.waited / elapsed,
            "seconds_left": (self.steps - last) * elapsed / n,
        }
        self.records, self.waited, self.since = [], 0.0, time.monotonic()
        return {"step": last, **means, **speed, **({"skipped": self.skipped} if self.skipped else {})}


class MetricsFile:
    """``metrics.jsonl`` of a run: a record for each window of steps, and one (``step``, ``val_...``) for each validation.

    Rewritten whole each time, because object stores cannot append, by a thread, because they can be slow; a resumed run drops
    later lines. While a store refuses, training goes on, and what is missing is written with the next record.
    """

    def __init__(self, run: str, start_step: int, tell: Callable[[str], None]) -> None:
        self.uri, self.tell = storage.join(run, METRICS), tell
        lines = storage.read_bytes(self.uri).decode().splitlines() if storage.exists(self.uri) else []
        self.records: list[dict[str, Any]] = [r for r in map(json.loads, lines) if r["step"] <= start_step]
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._last: Future[bool] | None = None
        self._refused = False

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record, in place of an earlier one of this step and these names."""
        self.records = [r for r in self.records if r["step"] != record["step"] or r.keys() != record.keys()] + [record]
        if self._last is not None:
            self._last.cancel()  # if it still waits for its turn: it would write less
        self._last = self._writer.submit(self._write, "".join(json.dumps(r) + "\n" for r in self.records).encode())

    def _write(self, lines: bytes) -> bool:
        try:
            storage.write_bytes(self.uri, lines)
        except OSError as e:  # StoreError, too
            if not self._refused:
                self.tell(
                    f"{METRICS} could not be written ({storage.scrub(str(e))}): training goes on, and it is tried again with the next line"
                )
            self._refused = True
            return False
        self._refused = False
        return True

    def close(self) -> None:
        """Waits for what is to be written, and tries once more what was refused."""
        if self._last is not None and not self._last.result():
            self._writer.submit(self._write, "".join(json.dumps(r) + "\n" for r in self.records).encode()).result()
        self._writer.shutdown()


def run(
    task: Task,
    batches: Callable[[int], Iterator[ClipBatch]],
    *,
    run: str,
    kind: str,
    steps: int,
    clips: int,
    log: LogConfig,
    device: torch.device,
    validation: Callable[[], Iterable[ClipBatch]] | None = None,
    progress: Callable[[str], None] = print,
    report: Callable[[dict[str, Any]], None] | None = None,
    notice: Callable[[], str] | None = None,
    examples: Callable[[], ClipBatch] | None = None,
    watched: bool = False,
    begin_from: str = "",
) -> dict[str, Any]:
    """Trains ``task`` up to ``steps``, from the run's last whole checkpoint if there is one; validates and exports.

    Args:
        batches: start step -> this worker's batches from there on, endless or at least up to ``steps``.
        run: URI of the run folder.
        kind: what the progress lines call it.
        clips: clips in a step, all workers together.
        notice: what is about to be taken away, or ""; the same on all workers, who ask it every ``NOTICE_EVERY`` steps. A new
            one makes them take a checkpoint at once.
        examples: the clips of the samples that are drawn every ``log.samples_every`` steps.
        report: hears every flushed record, on all workers equally often.
        watched: the record of a validation is reported when the checkpoint of its step is whole: who decides by it may begin from there.
        begin_from: URI of another run's checkpoint, for a run that has none of its own yet.

    Returns:
        the last training record and the validation's metrics.

    A batch whose loss is not finite is skipped, told and counted. Checkpoints are written beside training; one that cannot be
    written is told, and training goes on.

    Raises:
        TrainingDiverged: ``SKIPS_IN_A_ROW`` such batches, or one just before a checkpoint; none is written then, and no bundle.
        ArtifactError: the checkpoint cannot be continued here.
    """
    rank, _ = collective.worker()
    tell = progress if rank == 0 else _silent
    start = _resume(task, run, kind, tell, begin_from)
    metrics = MetricsFile(run, start, tell)
    board = Board(run, start, tell) if rank == 0 else None
    saver = checkpoint.Saver(run, log.keep_checkpoints, log.keep_best, tell)
    record: dict[str, Any] = {"step": start}
    window = Progress(steps, clips)
    source = batches(start) if start < steps else iter(())
    skipped, watch, heeded = 0, Watch(), ""
    found: dict[str, float] = {}
    try:
        for step in range(start, steps):
            asked = time.monotonic()
            batch = next(source).to(device)
            waited = time.monotonic() - asked
            done = step + 1
            save = done % log.checkpoint_every == 0 or done == steps
            if notice is not None and done % NOTICE_EVERY == 0 and (coming := notice()) not in ("", heeded):
                heeded, save = coming, True
                tell(f"{kind}: {coming}: a checkpoint is taken at step {done}")
            try:
                window.add(step, task.step(batch, step), waited)
                skipped = 0
            except NotFinite as e:
                window.add(step, {}, waited)
                skipped += 1
                window.skipped += 1
                tell(
                    f"{kind}: the loss is not finite at step {step} ({e}): this batch is skipped ({', '.join(batch.ids[:3])}, ...)"
                )
                if skipped == SKIPS_IN_A_ROW or save:
                    saver.wait()
                    raise _diverged(run, kind, step, e) from None
            if done % log.log_every == 0 or save:
                record = window.flush()
                for alarm in watch.hear(record):
                    tell(f"{kind} ALARM {alarm.name} (step {done}): {alarm.advice}")
                if watch.ringing():
                    record["alarms"] = watch.ringing()
                if board is not None:
                    metrics.append(record)
                    board.record(record)
                tell(progress_line(kind, record, steps))
                if report is not None:
                    report(record)
            measured = {}
            if validation is not None and (done == steps or (log.validate_every and done % log.validate_every == 0)):
                measured = found = _validate(task, validation, device, kind, done, metrics, board, tell)
            drawn = log.samples_every and examples is not None and (done == steps or done % log.samples_every == 0)
            if drawn and examples is not None:
                samples = task.samples(examples().to(device))
                if board is not None and samples:
                    board.samples(done, samples)
            if save:
                saver.save(done, task.engines, task.state(), measured)
            if measured and report is not None:
                if save and watched:
                    saver.wait()
                report(_record(done, measured))
            if save or measured or drawn:
                window.since = time.monotonic()  # none of them is training speed
        if start == steps and validation is not None:
            found = _validate(task, validation, device, kind, steps, metrics, board, tell)
            if report is not None:
                report(_record(steps, found))
    finally:
        saver.wait()
        metrics.close()
        if board is not None:
            board.close()
    task.export(run, found)
    return {**record, **found}


def _validate(
    task: Task,
    validation: Callable[[], Iterable[ClipBatch]],
    device: torch.device,
    kind: str,
    step: int,
    metrics: MetricsFile,
    board: Board | None,
    tell: Callable[[str], None],
) -> dict[str, float]:
    """Validates, told and written; training goes on as if it had not been."""
    if task.note and not any("val_" in name for r in metrics.records for name in r):
        tell(f"{kind}: {task.note}")
    random = checkpoint.random_state()
    found = task.validate(b.to(device) for b in validation())
    checkpoint.set_random_state(random)
    record = _record(step, found)
    if board is not None:
        metrics.append(record)
        board.record(record)
    tell(f"{kind} validation at step {step}: " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
    return found


def _record(step: int, found: dict[str, float]) -> dict[str, Any]:
    return {"step": step, **{f"val_{name}": value for name, value in found.items()}}


def progress_line(kind: str, record: dict[str, Any], steps: int) -> str:
    """One line for people."""
    shown = {k: v for k, v in record.items() if k not in NO_LOSSES}
    losses = "  ".join(f"{k} {v:.3f}" for k, v in sorted(shown.items(), key=lambda kv: (kv[0] != "loss", kv[0])))
    minutes, seconds = divmod(round(record["seconds_left"]), 60)
    speed = f"{record['clips_per_second']:.0f} clips/s, {record['data_wait']:.0%} waiting for data, {minutes} min {seconds:02d} s left"
    speed += f", {record['skipped']:.0f} batches skipped" if "skipped" in record else ""
    return f"{kind} {int(record['step'])}/{steps}  {losses}  ({speed})"


def _resume(task: Task, run: str, kind: str, tell: Callable[[str], None], begin_from: str) -> int:
    found: checkpoint.Checkpoint | None = None
    if collective.worker()[0] == 0:
        found = checkpoint.latest(run, tell) or (checkpoint.open_checkpoint(begin_from) if begin_from else None)
    found = collective.from_first(found)  # all continue from what worker 0 found whole
    if found is None:
        return 0
    task.load_state(checkpoint.load(found, task.engines))
    tell(
        f"{kind} continues from the checkpoint of step {found.step}"
        + (f", {begin_from}" if found.uri == begin_from else "")
    )
    return int(found.step)


def _diverged(run: str, kind: str, step: int, e: NotFinite) -> TrainingDiverged:
    last = checkpoint.latest(run, _silent)
    kept = f"the last good checkpoint is {last.uri}" if last else "there is no checkpoint yet"
    return TrainingDiverged(
        f"{kind}: the loss is not finite at step {step} ({e}); {kept}; try a lower learning rate or grad_clip"
    )


def _silent(message: str) -> None:
    """Says nothing."""
