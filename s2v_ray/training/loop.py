"""The one loop, for distillation and GAN alike: steps, progress, metrics, checkpoints, and what to do about NaN."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from s2v_ray import storage
from s2v_ray.clip import ClipBatch
from s2v_ray.config import LogConfig
from s2v_ray.training import checkpoint
from s2v_ray.training.alarms import DIAGNOSTICS, Watch
from s2v_ray.training.engine import Engine, NotFinite

METRICS = "metrics.jsonl"
SKIPS_IN_A_ROW = 10
"""Batches without a finite loss, one after another, that end a run: then it is not the data."""
NO_LOSSES = {"step", "clips_per_second", "data_wait", "seconds_left", "skipped", "alarms", *DIAGNOSTICS}
Scalar = Tensor | float


class Task(Protocol):
    """What is trained. Everything is called on all workers, equally often."""

    engines: dict[str, Engine]

    def step(self, batch: ClipBatch, step: int) -> dict[str, Scalar]:
        """One update of every player; scalars to log, the same names on every worker. Detached."""

    def state(self) -> dict[str, Any]:
        """This worker's tensors and plain values beyond the engines', for the checkpoint."""

    def load_state(self, state: dict[str, Any]) -> None: ...

    def validate(self, batches: Iterable[ClipBatch]) -> dict[str, float]: ...

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
            values = torch.stack([torch.stack([torch.as_tensor(s.get(n, 0.0)).detach().float().cpu() for n in names]) for _, s in self.records])
            if dist.is_initialized():
                values = _mean_over_workers(values)
            counts = torch.tensor([float(sum(n in s for _, s in self.records)) for n in names])
            means = dict(zip(names, (values.sum(0) / counts).tolist(), strict=True))
        last, n, elapsed = self.records[-1][0] + 1, len(self.records), max(1e-9, time.monotonic() - self.since)
        speed = {"clips_per_second": n * self.clips / elapsed, "data_wait": self.waited / elapsed, "seconds_left": (self.steps - last) * elapsed / n}
        self.records, self.waited, self.since = [], 0.0, time.monotonic()
        return {"step": last, **means, **speed, **({"skipped": self.skipped} if self.skipped else {})}


class MetricsFile:
    """``metrics.jsonl`` of a run. Rewritten whole each time, because object stores cannot append; a resumed run drops later lines."""

    def __init__(self, run: str, start_step: int) -> None:
        self.uri = storage.join(run, METRICS)
        lines = storage.read_bytes(self.uri).decode().splitlines() if storage.exists(self.uri) else []
        self.records: list[dict[str, Any]] = [r for r in map(json.loads, lines) if r["step"] <= start_step]

    def append(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        storage.write_bytes(self.uri, "".join(json.dumps(r) + "\n" for r in self.records).encode())


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
) -> dict[str, Any]:
    """Trains ``task`` up to ``steps``, from the run's last whole checkpoint if there is one; validates and exports.

    Args:
        batches: start step -> this worker's batches from there on, endless or at least up to ``steps``.
        run: URI of the run folder.
        kind: what the progress lines call it.
        clips: clips in a step, all workers together.
        report: hears every flushed record, on all workers equally often (``ray.train.report``).

    Returns:
        the last training record and the validation's metrics.

    A batch whose loss is not finite is skipped, told and counted.

    Raises:
        TrainingDiverged: ``SKIPS_IN_A_ROW`` such batches, or one just before a checkpoint; none is written then, and no bundle.
        ArtifactError: the checkpoint cannot be continued here.
    """
    rank, _ = checkpoint.worker()
    tell = progress if rank == 0 else _silent
    start = _resume(task, run, kind, tell)
    metrics = MetricsFile(run, start)
    record: dict[str, Any] = {"step": start}
    window = Progress(steps, clips)
    source = batches(start) if start < steps else iter(())
    skipped, watch = 0, Watch()
    for step in range(start, steps):
        asked = time.monotonic()
        batch = next(source).to(device)
        waited = time.monotonic() - asked
        done = step + 1
        save = done % log.checkpoint_every == 0 or done == steps
        try:
            window.add(step, task.step(batch, step), waited)
            skipped = 0
        except NotFinite as e:
            window.add(step, {}, waited)
            skipped += 1
            window.skipped += 1
            tell(f"{kind}: the loss is not finite at step {step} ({e}): this batch is skipped ({', '.join(batch.ids[:3])}, ...)")
            if skipped == SKIPS_IN_A_ROW or save:
                raise _diverged(run, kind, step, e) from None
        if done % log.log_every == 0 or save:
            record = window.flush()
            for alarm in watch.hear(record):
                tell(f"{kind} ALARM {alarm.name} (step {done}): {alarm.advice}")
            if watch.ringing():
                record["alarms"] = watch.ringing()
            if rank == 0:
                metrics.append(record)
            tell(progress_line(kind, record, steps))
            if report is not None:
                report(record)
        if save:
            checkpoint.save(run, done, task.engines, task.state(), log.keep_checkpoints)
            window.since = time.monotonic()  # saving is not training speed
    found = task.validate(b.to(device) for b in validation()) if validation is not None else {}
    if found:
        tell(f"{kind} validation: " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
    task.export(run, found)
    return {**record, **found}


def progress_line(kind: str, record: dict[str, Any], steps: int) -> str:
    """One line for people."""
    shown = {k: v for k, v in record.items() if k not in NO_LOSSES}
    losses = "  ".join(f"{k} {v:.3f}" for k, v in sorted(shown.items(), key=lambda kv: (kv[0] != "loss", kv[0])))
    minutes, seconds = divmod(round(record["seconds_left"]), 60)
    speed = f"{record['clips_per_second']:.0f} clips/s, {record['data_wait']:.0%} waiting for data, {minutes} min {seconds:02d} s left"
    speed += f", {record['skipped']:.0f} batches skipped" if "skipped" in record else ""
    return f"{kind} {int(record['step'])}/{steps}  {losses}  ({speed})"


def _resume(task: Task, run: str, kind: str, tell: Callable[[str], None]) -> int:
    found: list[Any] = [checkpoint.latest(run, tell) if checkpoint.worker()[0] == 0 else None]
    if dist.is_initialized():
        dist.broadcast_object_list(found, 0)  # all continue from what worker 0 found whole
    if found[0] is None:
        return 0
    task.load_state(checkpoint.load(found[0], task.engines))
    tell(f"{kind} continues from the checkpoint of step {found[0].step}")
    return int(found[0].step)


def _diverged(run: str, kind: str, step: int, e: NotFinite) -> TrainingDiverged:
    last = checkpoint.latest(run, _silent)
    kept = f"the last good checkpoint is {last.uri}" if last else "there is no checkpoint yet"
    return TrainingDiverged(f"{kind}: the loss is not finite at step {step} ({e}); {kept}; try a lower learning rate or grad_clip")


def _mean_over_workers(values: Tensor) -> Tensor:
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    moved = values.to(device)
    dist.all_reduce(moved)
    return (moved / dist.get_world_size()).cpu()


def _silent(message: str) -> None:
    """Says nothing."""
