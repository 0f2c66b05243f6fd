"""Speech-like sounds, and WAV files of them."""

from __future__ import annotations

import io
import wave

import numpy as np

from s2v_ray.media.timing import SAMPLE_RATE


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness rises and falls as that of speech does: float32 ``[N]`` in [-1, 1]."""
    n = round(seconds * SAMPLE_RATE)
    loudness = 0.3 * np.sin(np.arange(n) * 2 * np.pi * 3 / SAMPLE_RATE) ** 2
    return (loudness * np.random.default_rng(seed).standard_normal(n)).clip(-1, 1).astype(np.float32)


def wav(sound: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """float ``[N]`` or ``[N, channels]`` as the bytes of a WAV file."""
    out = io.BytesIO()
    with wave.open(out, "wb") as f:
        f.setnchannels(1 if sound.ndim == 1 else sound.shape[1])
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes((sound * 32767).round().clip(-32768, 32767).astype("<i2").tobytes())
    return out.getvalue()
