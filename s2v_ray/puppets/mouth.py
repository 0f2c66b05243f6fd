"""Phonemes -> mouth shapes, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from s2v_ray.media.timing import FPS
from s2v_ray.puppets.voice import Phoneme

_STEP = 0.005  # seconds between the points at which shapes are blended, before they are taken at the frames
_BLEND = 0.022  # coarticulation: standard deviation of the blend, seconds

# opening 0..1, width -1..1 (spread > 0), rounding 0..1, lip under the teeth 0..1
_SHAPES: dict[str, tuple[float, float, float, float]] = {
    "a": (0.95, 0.10, 0.0, 0.0),
    "A": (1.00, -0.05, 0.1, 0.0),
    "V": (0.68, 0.00, 0.0, 0.0),
    "@": (0.45, 0.00, 0.0, 0.0),
    "3": (0.48, -0.20, 0.3, 0.0),
    "E": (0.70, 0.35, 0.0, 0.0),
    "e": (0.62, 0.45, 0.0, 0.0),
    "I": (0.42, 0.45, 0.0, 0.0),
    "i": (0.33, 0.75, 0.0, 0.0),
    "0": (0.85, -0.25, 0.4, 0.0),
    "O": (0.78, -0.45, 0.7, 0.0),
    "o": (0.62, -0.55, 0.8, 0.0),
    "U": (0.36, -0.60, 0.8, 0.0),
    "u": (0.28, -0.80, 1.0, 0.0),
    "m": (0.0, 0.0, 0.0, 0.0),
    "b": (0.0, 0.0, 0.0, 0.0),
    "p": (0.0, 0.0, 0.0, 0.0),
    "f": (0.10, 0.1, 0.0, 1.0),
    "v": (0.10, 0.1, 0.0, 1.0),
    "T": (0.24, 0.1, 0.0, 0.0),
    "D": (0.24, 0.1, 0.0, 0.0),
    "s": (0.15, 0.4, 0.0, 0.0),
    "z": (0.15, 0.4, 0.0, 0.0),
    "t": (0.20, 0.2, 0.0, 0.0),
    "d": (0.20, 0.2, 0.0, 0.0),
    "n": (0.22, 0.1, 0.0, 0.0),
    "l": (0.30, 0.1, 0.0, 0.0),
    "S": (0.22, -0.4, 0.6, 0.0),
    "Z": (0.22, -0.4, 0.6, 0.0),
    "r": (0.26, -0.3, 0.5, 0.0),
    "w": (0.14, -0.8, 1.0, 0.0),
    "j": (0.25, 0.5, 0.0, 0.0),
    "k": (0.30, 0.0, 0.0, 0.0),
    "g": (0.30, 0.0, 0.0, 0.0),
    "N": (0.30, 0.0, 0.0, 0.0),
    "x": (0.30, 0.0, 0.0, 0.0),
    "h": (0.40, 0.0, 0.0, 0.0),
    "?": (0.25, 0.0, 0.0, 0.0),
}
_REST = (0.0, 0.0, 0.0, 0.0)
_UNKNOWN = (0.25, 0.0, 0.0, 0.0)
_CLOSED = frozenset("mbp")


@dataclass(frozen=True)
class MouthTrack:
    """Mouth shapes at the frames, each float64 ``[T]``: opening 0..1, width -1..1, rounding 0..1, tuck 0..1 (lower lip
    under the teeth), speaking 0..1 (0 in pauses), closed 0..1 (1 where a bilabial presses the lips together)."""

    opening: np.ndarray
    width: np.ndarray
    rounding: np.ndarray
    tuck: np.ndarray
    speaking: np.ndarray
    closed: np.ndarray


def shapes(phoneme: str) -> list[tuple[float, float, float, float]]:
    """The shapes one phoneme passes through: a diphthong (espeak writes "aI") has two, a pause rests."""
    if phoneme.startswith("_"):
        return [_REST]
    stressed = "'" in phoneme
    found = [_SHAPES[c] for c in phoneme if c in _SHAPES]
    if "p" in phoneme or "b" in phoneme or "m" in phoneme:
        return [_REST]
    gain = 1.0 if stressed else 0.85
    return [(s[0] * gain, *s[1:]) for s in found] or [_UNKNOWN]


def mouth_track(phonemes: Sequence[Phoneme], frames: int) -> MouthTrack:
    """Blended shapes of ``phonemes`` at the middle of each of ``frames`` frames, where the frame's speech lies."""
    n = round(frames / FPS / _STEP) + 1
    grid = np.arange(n) * _STEP
    held = np.zeros((n, 4))
    speaking, closed = np.zeros(n), np.zeros(n)
    for p in phonemes:
        parts = shapes(p.phoneme)
        edges = np.linspace(p.start, p.end, len(parts) + 1)
        for shape, start, end in zip(parts, edges[:-1], edges[1:], strict=True):
            held[(grid >= start) & (grid < end)] = shape
        inside = (grid >= p.start) & (grid < p.end)
        speaking[inside] = not p.phoneme.startswith("_")
        if _CLOSED & set(p.phoneme):
            # at least one frame wide, so that no lip closure falls between two frames
            middle, half = (p.start + p.end) / 2, max((p.end - p.start) * 0.35, 0.5 / FPS)
            closed[np.abs(grid - middle) <= half] = 1.0
    blended = gaussian_filter1d(held, _BLEND / _STEP, axis=0, mode="nearest")
    speaking = gaussian_filter1d(speaking, 0.03 / _STEP, mode="nearest")
    soft = np.maximum(closed, gaussian_filter1d(closed, 0.012 / _STEP, mode="nearest"))
    at = (np.arange(frames) + 0.5) / FPS
    take = [np.interp(at, grid, column) for column in blended.T]
    closed_at = np.interp(at, grid, soft)
    return MouthTrack(take[0] * (1.0 - closed_at), take[1], take[2], take[3], np.interp(at, grid, speaking), closed_at)
