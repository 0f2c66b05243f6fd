"""Tiny random bundles and sounds, for tests of the endpoint."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import numpy as np
import torch
from numpy.random import default_rng

from s2v_ray.config import load_recipe
from s2v_ray.media.timing import SAMPLE_RATE
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.generator import Speech2Video
from s2v_ray.models.teachers import ConvFace, save_conv

EMOTIONS = ("neutral", "happy", "angry")
SIZE, DIM = 32, 32


def make_bundle(uri: Path, *overrides: str, seed: int = 0) -> str:
    torch.manual_seed(seed)
    recipe = load_recipe("debug", overrides)
    model = Speech2Video(recipe, DIM, EMOTIONS)
    model.student.emotion_codes.uniform_(-1, 1)
    for parameter in model.parameters():
        parameter.data *= (
            1.5  # larger than at the start of training: a change of the input is plain to see in the picture
        )
    save_bundle(str(uri), model, recipe, "speech2video", {}, {})
    return str(uri)


def make_teacher(uri: Path) -> str:
    torch.manual_seed(1)
    save_conv(
        str(uri), ConvFace(4, DIM), role="identity", height=SIZE, width=SIZE, alignment="box", dim=DIM, channels=4
    )
    return str(uri)


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness rises and falls as that of speech does."""
    n = round(seconds * SAMPLE_RATE)
    loudness = 0.3 * np.sin(np.arange(n) * 2 * np.pi * 3 / SAMPLE_RATE) ** 2
    return (loudness * default_rng(seed).standard_normal(n)).clip(-1, 1).astype(np.float32)


def wav(sound: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """float ``[N]`` as the bytes of a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes((sound * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())
    return out.getvalue()
