from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from s2v_ray.losses.sync import sync_accuracy, sync_contrast, sync_distance


def test_chance_is_log_of_the_windows() -> None:
    same = F.normalize(torch.ones(2, 7, 4), dim=-1)
    assert sync_contrast(same, same, 10.0).item() == pytest.approx(math.log(7), rel=1e-5)
    assert sync_accuracy(same, same, gap=2).item() == pytest.approx(0.5)


def test_perfect_sync() -> None:
    windows = torch.eye(8)[None]
    assert sync_contrast(windows, windows, 20.0).item() == pytest.approx(0.0, abs=1e-6)
    assert sync_accuracy(windows, windows, gap=3).item() == 1.0
    assert sync_distance(windows, windows).item() == pytest.approx(0.0)


def test_shifted_speech_has_a_low_accuracy() -> None:
    windows = torch.eye(12)[None]
    shifted = windows.roll(5, 1)
    assert sync_accuracy(shifted, windows, gap=5).item() < 0.6
    assert sync_distance(shifted, windows).item() == pytest.approx(1.0)


def test_small_shifts_are_no_negatives() -> None:
    windows = torch.eye(6)[None].repeat(1, 1, 1)
    near = F.normalize(windows + windows.roll(1, 1), dim=-1)  # equally similar to its neighbour and itself
    assert sync_contrast(near, windows, 20.0, gap=2) < sync_contrast(near, windows, 20.0, gap=1)
