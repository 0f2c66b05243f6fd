"""What a person watches of a run, beside its lines: TensorBoard's events in RUN/tensorboard, and sample videos in RUN/samples.

Both are written locally by a thread and, where the run is elsewhere, sent there; a store that refuses is told once and costs
nothing but the view.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from s2v_ray import storage
from s2v_ray.media.video import SYNTHETIC, write_mp4

GRID_FRAMES = 8
"""Frames of a sample in TensorBoard's picture, evenly spaced."""


@dataclass(frozen=True)
class Sample:
    """What was generated of a clip's speech: ``frames`` and ``real`` uint8 ``[T, S, S, 3]``, ``speech`` float32 ``[T * 640]``."""

    id: str
    frames: np.ndarray
    real: np.ndarray
    speech: np.ndarray


class Board:
    """The view of a run; worker 0 has one.

    Args:
        start_step: where the run goes on: what an earlier attempt drew beyond it is hidden.
    """

    def __init__(self, run: str, start_step: int, tell: Callable[[str], None]) -> None:
        self.run, self.tell = run, tell
        self._scratch = tempfile.TemporaryDirectory(prefix="s2v-board-")
        self._events = storage.local_path(storage.join(run, "tensorboard"))
        self._folder = self._events or os.path.join(self._scratch.name, "tensorboard")
        self._writer = SummaryWriter(self._folder, purge_step=start_step)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="board")
        self._refused = False

    def record(self, record: Mapping[str, Any]) -> None:
        """A record of metrics.jsonl."""
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(
                    f"validation/{name[4:]}" if name.startswith("val_") else f"training/{name}", value, record["step"]
                )
        self._thread.submit(self._quietly, self._send_events)

    def samples(self, step: int, samples: list[Sample]) -> None:
        """The real clip at the left, what was generated at the right: MP4s with sound, and a picture of some frames."""
        rows = []
        for sample in samples:
            few = np.linspace(0, len(sample.frames) - 1, GRID_FRAMES).round().astype(int)
            rows += [np.concatenate(list(frames[few]), axis=1) for frames in (sample.real, sample.frames)]
        self._writer.add_image("samples", np.concatenate(rows), step, dataformats="HWC")
        self._thread.submit(self._quietly, self._write_samples, step, samples)

    def close(self) -> None:
        """Returns when all is written, or has been told of as refused."""
        self._thread.submit(self._quietly, self._send_events)
        self._thread.shutdown()
        self._writer.close()
        self._scratch.cleanup()

    def _write_samples(self, step: int, samples: list[Sample]) -> None:
        for sample in samples:
            name = f"step-{step:08d}-{sample.id[:12]}.mp4"
            path = os.path.join(self._scratch.name, name)
            pairs = np.concatenate([sample.real, sample.frames], axis=2)
            write_mp4(
                path, iter(pairs), sample.speech, metadata={**SYNTHETIC, "title": f"step {step}: real and generated"}
            )
            with open(path, "rb") as f:
                storage.write_bytes(storage.join(self.run, "samples", name), f.read())
            os.remove(path)

    def _send_events(self) -> None:
        self._writer.flush()
        if self._events is None:
            for name in sorted(os.listdir(self._folder)):
                with open(os.path.join(self._folder, name), "rb") as f:
                    storage.write_bytes(storage.join(self.run, "tensorboard", name), f.read())

    def _quietly(self, job: Callable[..., None], *args: Any) -> None:
        try:
            job(*args)
            self._refused = False
        except Exception as e:  # a view that cannot be drawn is no reason to stop what it would show
            if not self._refused:
                self.tell(
                    f"TensorBoard's events or samples could not be written ({storage.scrub(str(e))}): training goes on"
                )
            self._refused = True
