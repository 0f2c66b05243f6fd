"""Small bundles and teachers with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from s2v_ray.config import load_recipe
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.teachers import ConvFace, save_conv

EMOTIONS = ("neutral", "happy", "angry")
SIZE, DIM = 32, 32


def make_bundle(uri: Path, *overrides: str, seed: int = 0) -> str:
    """Writes a speech2video bundle of the recipe ``debug`` with ``overrides``; returns its URI."""
    torch.manual_seed(seed)
    recipe = load_recipe("debug", overrides)
    model = Speech2Video(recipe, DIM, EMOTIONS)
    model.student.emotion_codes.uniform_(-1, 1)
    for parameter in model.parameters():
        parameter.data *= 1.5  # larger than initial weights, so that a changed input changes the frames visibly
    save_bundle(str(uri), model, recipe, "speech2video", {}, {})
    return str(uri)


def make_teacher(uri: Path) -> str:
    """Writes an identity teacher for the bundles of ``make_bundle``; returns its URI."""
    torch.manual_seed(1)
    card = {"role": "identity", "height": SIZE, "width": SIZE, "alignment": "box", "dim": DIM, "channels": 4}
    save_conv(str(uri), ConvFace(4, DIM), **card)
    return str(uri)
