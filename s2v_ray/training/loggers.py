"""Records and samples of a run: ``metrics.jsonl``, sample videos, and experiment loggers such as TensorBoard.

``LOGGERS`` is the table of experiment loggers. A package outside adds one with ``register_logger`` in a module that the
recipe names in ``plugins``, and selects it by ``log.loggers``.
"""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from s2v_ray import storage
from s2v_ray.media.video import SYNTHETIC, write_mp4

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
GRID_FRAMES = 8
"""Frames of a sample in a picture, evenly spaced."""


@dataclass(frozen=True)
class Sample:
    """Frames generated from a clip's speech, and the real ones.

    Attributes:
        id: the clip's id.
        frames: generated, uint8 ``[T, S, S, 3]``.
        real: uint8 ``[T, S, S, 3]``.
        speech: float32 ``[T * 640]``.
    """

    id: str
    frames: np.ndarray
    real: np.ndarray
    speech: np.ndarray

    def file(self, step: int) -> str:
        """Return the name of its video file."""
        return f"step-{step:08d}-{self.id[:12]}.mp4"

    @functools.cached_property
    def video(self) -> bytes:
        """An MP4 file, marked as synthetic: the real clip left, the generated one right."""
        with tempfile.TemporaryDirectory(prefix="s2v-sample-") as folder:
            file = Path(folder) / "sample.mp4"
            pairs = np.concatenate([self.real, self.frames], axis=2)
            metadata = {**SYNTHETIC, "title": "real and generated"}
            write_mp4(str(file), iter(pairs), self.speech, metadata=metadata)
            return file.read_bytes()


class RunLogger(Protocol):
    """An experiment logger of one run, on worker 0. Exceptions are logged once and do not stop training."""

    def record(self, record: Mapping[str, Any]) -> None:
        """Log a record of ``metrics.jsonl``: ``step``, scalars, and ``val_...`` of validations."""

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Log samples."""

    def close(self) -> None:
        """Write everything that is pending."""


LoggerFactory = Callable[[str, int], RunLogger]
"""Run URI and start step -> logger. A resumed run starts at its checkpoint; later entries are to be hidden."""
LOGGERS: dict[str, LoggerFactory] = {}


def register_logger(name: str) -> Callable[[LoggerFactory], LoggerFactory]:
    """Return a decorator that adds a logger class or factory to ``LOGGERS``."""

    def add(factory: LoggerFactory) -> LoggerFactory:
        LOGGERS[name] = factory
        return factory

    return add


class MetricsFile:
    """``metrics.jsonl`` of a run: a record for each window of steps, and one (with ``val_...``) for each validation.

    Object stores cannot append, so a thread rewrites the whole file each time. A resumed run drops later records. While
    the store refuses, training continues, and missing records are written with the next one.

    Args:
        run: URI of the run folder.
        start_step: step at which this attempt starts.
    """

    def __init__(self, run: str, start_step: int) -> None:
        self.uri = storage.join(run, METRICS)
        lines = storage.read_bytes(self.uri).decode().splitlines() if storage.exists(self.uri) else []
        self.records: list[dict[str, Any]] = [r for r in map(json.loads, lines) if r["step"] <= start_step]
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self._last: Future[bool] | None = None
        self._refused = False

    @property
    def has_validation(self) -> bool:
        """Whether any record is of a validation."""
        return any(name.startswith("val_") for record in self.records for name in record)

    def append(self, record: dict[str, Any]) -> None:
        """Add a record, replacing an earlier one of the same step and names."""
        kept = [r for r in self.records if r["step"] != record["step"] or r.keys() != record.keys()]
        self.records = [*kept, record]
        if self._last is not None:
            self._last.cancel()  # if it has not started: it would write fewer records
        self._last = self._writer.submit(self._write, self._encoded())

    def close(self) -> None:
        """Wait for pending writes, and try once more what was refused."""
        if self._last is not None and not self._last.result():
            self._writer.submit(self._write, self._encoded()).result()
        self._writer.shutdown()

    def _encoded(self) -> bytes:
        return "".join(json.dumps(r) + "\n" for r in self.records).encode()

    def _write(self, lines: bytes) -> bool:
        try:
            storage.write_bytes(self.uri, lines)
        except OSError as e:  # includes StoreError
            if not self._refused:
                reason = storage.scrub(str(e))
                logger.warning(
                    "%s could not be written (%s): training continues, and it is tried again with the next record",
                    METRICS,
                    reason,
                )
            self._refused = True
            return False
        self._refused = False
        return True


class RunLoggers:
    """The loggers that a recipe names, and the sample videos in RUN/samples. One thread writes for all of them.

    Args:
        run: URI of the run folder.
        start_step: step at which this attempt starts.
        names: entries of ``LOGGERS``.

    Raises:
        ValueError: a name is not registered.
    """

    def __init__(self, run: str, start_step: int, names: Sequence[str]) -> None:
        self.run = run
        if unknown := [name for name in names if name not in LOGGERS]:
            raise ValueError(f"log.loggers: there is no logger {unknown[0]!r}; known: {', '.join(LOGGERS)}")
        self._loggers = [LOGGERS[name](run, start_step) for name in names]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loggers")
        self._refused = False

    def record(self, record: Mapping[str, Any]) -> None:
        """Pass a record to all loggers."""
        for one in self._loggers:
            self._thread.submit(self._attempt, one.record, dict(record))

    def samples(self, step: int, samples: list[Sample]) -> None:
        """Pass samples to all loggers, and write them as MP4 files: the real clip left, the generated one right."""
        for one in self._loggers:
            self._thread.submit(self._attempt, one.samples, step, samples)
        self._thread.submit(self._attempt, write_samples, self.run, step, samples)

    def close(self) -> None:
        """Wait for everything that is pending."""
        for one in self._loggers:
            self._thread.submit(self._attempt, one.close)
        self._thread.shutdown()

    def _attempt(self, job: Callable[..., None], *args: Any) -> None:
        try:
            job(*args)
            self._refused = False
        except Exception as e:  # a logger of any kind must not stop training
            if not self._refused:
                reason = storage.scrub(str(e))
                logger.warning("loggers or samples could not be written (%s): training continues", reason)
            self._refused = True


def write_samples(run: str, step: int, samples: Sequence[Sample]) -> None:
    """Write the videos of samples to RUN/samples."""
    for sample in samples:
        storage.write_bytes(storage.join(run, "samples", sample.file(step)), sample.video)


def picture_of(samples: Sequence[Sample]) -> np.ndarray:
    """Arrange samples as one picture, uint8 ``[H, W, 3]``: for each a row of real and a row of generated frames."""
    rows = []
    for sample in samples:
        at = np.linspace(0, len(sample.frames) - 1, GRID_FRAMES).round().astype(int)
        rows += [np.concatenate(list(frames[at]), axis=1) for frames in (sample.real, sample.frames)]
    return np.concatenate(rows)


@register_logger("tensorboard")
class TensorBoardLogger:
    """TensorBoard event files in RUN/tensorboard; written locally and uploaded if the run is remote."""

    def __init__(self, run: str, start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.uri = storage.join(run, "tensorboard")
        self._scratch = tempfile.TemporaryDirectory(prefix="s2v-tensorboard-")
        self._remote = storage.local_path(self.uri) is None
        self._folder = Path(storage.local_path(self.uri) or Path(self._scratch.name) / "tensorboard")
        self._writer = SummaryWriter(str(self._folder), purge_step=start_step)

    def record(self, record: Mapping[str, Any]) -> None:
        """See ``RunLogger``."""
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                group, short = ("validation", name[4:]) if name.startswith("val_") else ("training", name)
                self._writer.add_scalar(f"{group}/{short}", value, record["step"])
        self._flush()

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """See ``RunLogger``."""
        self._writer.add_image("samples", picture_of(samples), step, dataformats="HWC")

    def close(self) -> None:
        """See ``RunLogger``."""
        self._flush()
        self._writer.close()
        self._scratch.cleanup()

    def _flush(self) -> None:
        self._writer.flush()
        if self._remote:
            for file in sorted(self._folder.iterdir()):
                storage.write_bytes(storage.join(self.uri, file.name), file.read_bytes())


@register_logger("ray")
def ray_logger(run: str, start_step: int) -> RunLogger:
    """Make the logger of Ray's metrics, which is imported only if it is used."""
    from s2v_ray.training.ray_metrics import RayMetricsLogger

    return RayMetricsLogger(run, start_step)


@register_logger("mlflow")
def mlflow_logger(run: str, start_step: int) -> RunLogger:
    """Make the logger of MLflow, which is imported only if it is used."""
    from s2v_ray.training.trackers import MlflowLogger

    return MlflowLogger(run, start_step)


@register_logger("wandb")
def wandb_logger(run: str, start_step: int) -> RunLogger:
    """Make the logger of Weights & Biases, which is imported only if it is used."""
    from s2v_ray.training.trackers import WandbLogger

    return WandbLogger(run, start_step)
