"""Bundles and speech for the commands."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch

from s2v_ray.config import load_recipe
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.student import Student
from tests.helpers.commands import EMOTIONS


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """The run of a distillation, as far as its bundle goes."""
    recipe = load_recipe("debug")
    torch.manual_seed(0)
    save_bundle(str(tmp_path / "student" / "bundle"), Student(recipe.student, 8, EMOTIONS), recipe, "student", {}, {})
    return tmp_path / "student"


@pytest.fixture
def generator(tmp_path: Path) -> Path:
    recipe = load_recipe("debug")
    torch.manual_seed(0)
    save_bundle(
        str(tmp_path / "generator" / "bundle"), Speech2Video(recipe, 8, EMOTIONS), recipe, "speech2video", {}, {}
    )
    return tmp_path / "generator"


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Half a second of a tone."""
    path = tmp_path / "speech.wav"
    with wave.open(str(path), "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(16_000)
        t = torch.arange(8000) / 16_000
        f.writeframes((torch.sin(2 * torch.pi * 220 * t) * 8000).to(torch.int16).numpy().tobytes())
    return path
