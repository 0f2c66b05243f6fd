"""Inputs of discriminators for tests."""

from __future__ import annotations

from typing import Any

import torch

from s2v_ray.media.timing import frames_to_samples
from s2v_ray.training.tasks.adversaries import DiscriminatorInputs

FRAMES, IDENTITY, EMOTIONS = 8, 6, 5


def make_inputs(**changes: Any) -> DiscriminatorInputs:
    """Two clips of 32 pixels with random frames."""
    fields: dict[str, Any] = {
        "frames": torch.rand(2, FRAMES, 3, 32, 32) * 2 - 1,
        "speech": 0.1 * torch.randn(2, frames_to_samples(FRAMES)),
        "identity": torch.randn(2, IDENTITY),
        "emotion": torch.full((2, EMOTIONS), 1 / EMOTIONS),
        "frame_indices": torch.tensor([[0, 3], [7, 1]]),
        "consecutive": torch.tensor([True, True]),
        "paired": torch.tensor([True, False]),
        "key": (0, 1, 2),
    }
    return DiscriminatorInputs(**(fields | changes))
