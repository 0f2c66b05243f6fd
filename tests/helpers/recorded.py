"""Recordings in the layout of RAVDESS, spoken by espeak-ng."""

from __future__ import annotations

from pathlib import Path

from s2v_ray.media.audio import resample
from s2v_ray.media.ravdess import EMOTIONS, SENTENCES
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.voice import Speech, Voice, speak
from tests.helpers.sounds import wav


def stranger(actor: int) -> Voice:
    """A voice that is none of the templates'."""
    throat = 84.0 if actor % 2 else 113.0
    return Voice(
        "en-US", 95.0 if actor % 2 else 205.0, (throat, throat + 4, throat, 100, 100, 100), 80, 1, 1, 1.05, (700, 2600)
    )


def say(actor: int, emotion: str, statement: int) -> Speech:
    return speak(stranger(actor), emotion, SENTENCES[statement - 1])


def record(folder: Path, actor: int, emotion: str, statement: int = 1, intensity: int = 1, repetition: int = 1) -> Path:
    """Writes a recording, 16 kHz WAV; returns its path."""
    parts = (3, 1, EMOTIONS.index(emotion) + 1, intensity, statement, repetition, actor)
    path = folder / f"Actor_{actor:02d}" / ("-".join(f"{part:02d}" for part in parts) + ".wav")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wav(resample(say(actor, emotion, statement).samples, RATE)))
    return path
