"""Scalars and speed of the steps since the last training record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s2v_ray.training import collective

Scalar = Tensor | float
Record = dict[str, Any]


@dataclass
class Window:
    """Steps since the last record: scalars, speed and waiting time."""

    steps: int
    clips: int
    scalars: list[tuple[int, Mapping[str, Scalar]]] = field(default_factory=list)
    data_seconds: float = 0.0
    skipped: int = 0
    since: float = field(default_factory=time.monotonic)

    def add(self, step: int, scalars: Mapping[str, Scalar], data_seconds: float) -> None:
        """Add one step."""
        self.scalars.append((step, scalars))
        self.data_seconds += data_seconds

    def restart_clock(self) -> None:
        """Exclude the time since the last record from the speed."""
        self.since = time.monotonic()

    def flush(self) -> Record:
        """Average all scalars over steps and workers, compute the speed, and start a new window."""
        names = sorted({name for _, scalars in self.scalars for name in scalars})
        means: Record = {}
        if names:
            rows = [torch.stack([_scalar(s.get(name, 0.0)) for name in names]) for _, s in self.scalars]
            values = collective.mean(torch.stack(rows))
            counts = torch.tensor([float(sum(name in s for _, s in self.scalars)) for name in names])
            means = dict(zip(names, (values.sum(0) / counts).tolist(), strict=True))
        done, n = self.scalars[-1][0] + 1, len(self.scalars)
        elapsed = max(1e-9, time.monotonic() - self.since)
        speed = {
            "clips_per_second": n * self.clips / elapsed,
            "data_wait": self.data_seconds / elapsed,
            "seconds_left": (self.steps - done) * elapsed / n,
        }
        skipped = {"skipped": self.skipped} if self.skipped else {}
        self.scalars, self.data_seconds = [], 0.0
        self.restart_clock()
        return {"step": done, **means, **speed, **skipped}


def _scalar(value: Scalar) -> Tensor:
    return torch.as_tensor(value).detach().float().cpu()
