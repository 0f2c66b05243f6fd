"""A training record: means of scalars, speed, and waiting time."""

from __future__ import annotations

import pytest
import torch

from s2v_ray.training import window as module
from s2v_ray.training.window import Window


def test_a_record_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    window = Window(steps=10, clips=8, since=100.0)
    window.add(3, {"loss": torch.tensor(1.0), "odd": 5.0}, data_seconds=0.5)
    window.add(4, {"loss": torch.tensor(2.0)}, data_seconds=0.5)
    window.skipped = 1
    now[0] = 104.0
    assert window.flush() == {
        "step": 5,
        "loss": 1.5,
        "odd": 5.0,  # a mean over the steps that have it
        "clips_per_second": 2 * 8 / 4.0,
        "data_wait": 0.25,
        "seconds_left": 5 * 2.0,
        "skipped": 1,
    }
    window.add(5, {"loss": 7.0}, data_seconds=0.0)
    now[0] = 105.0
    window.restart_clock()
    now[0] = 106.0
    assert window.flush() == {
        "step": 6,
        "loss": 7.0,
        "clips_per_second": 8.0,
        "data_wait": 0.0,
        "seconds_left": 4.0,
        "skipped": 1,
    }
