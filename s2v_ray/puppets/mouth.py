"""Mouth shapes of phonemes, frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2v_ray.media.timing import FPS
from s2v_ray.puppets.voice import Phoneme

_STEP = 0.005  # seconds between the points of the grid on which shapes are blended
_BLEND = 0.022  # standard deviation of the blend (coarticulation), seconds

Shape = tuple[float, float, float, float]
"""Opening 0..1, width -1..1 (spread > 0), rounding 0..1, lower lip under the teeth 0..1."""

_SHAPES: dict[str, Shape] = {
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
_REST: Shape = (0.0, 0.0, 0.0, 0.0)
_UNKNOWN: Shape = (0.25, 0.0, 0.0, 0.0)
_CLOSED = frozenset("mbp")


@dataclass(frozen=True)
class MouthTrack:
    """Mouth shapes at the frames of a clip, float64 ``[T]`` each.

    Attributes:
        opening: 0..1.
        width: -1..1.
        rounding: 0..1.
        tuck: lower lip under the teeth, 0..1.
        closed: 0..1; 1 where a bilabial closes the lips.
    """

    opening: np.ndarray
    width: np.ndarray
    rounding: np.ndarray
    tuck: np.ndarray
    closed: np.ndarray


def shapes(phoneme: str) -> list[Shape]:
    """Returns the consecutive shapes of a phoneme: two for a diphthong (such as "aI"), rest for a pause."""
    if phoneme.startswith("_") or _CLOSED & set(phoneme):
        return [_REST]
    gain = 1.0 if "'" in phoneme else 0.85  # unstressed vowels are smaller
    return [(_SHAPES[c][0] * gain, *_SHAPES[c][1:]) for c in phoneme if c in _SHAPES] or [_UNKNOWN]


def mouth_track(phonemes: Sequence[Phoneme], frames: int) -> MouthTrack:
    """Returns the blended shapes of ``phonemes`` at the centre of each of ``frames`` frames."""
    n = round(frames / FPS / _STEP) + 1
    grid = np.arange(n) * _STEP
    held = np.zeros((n, 4))
    closed = np.zeros(n)
    for p in phonemes:
        parts = shapes(p.phoneme)
        edges = np.linspace(p.start, p.end, len(parts) + 1)
        for shape, start, end in zip(parts, edges[:-1], edges[1:], strict=True):
            held[(grid >= start) & (grid < end)] = shape
        if _CLOSED & set(p.phoneme):
            # At least one frame long, so that every closure of the lips is visible in some frame.
            middle, half = (p.start + p.end) / 2, max((p.end - p.start) * 0.35, 0.5 / FPS)
            closed[np.abs(grid - middle) <= half] = 1.0
    blended = np.stack([_blur(column, _BLEND) for column in held.T])
    soft = np.maximum(closed, _blur(closed, 0.012))
    at = (np.arange(frames) + 0.5) / FPS
    opening, width, rounding, tuck = (np.interp(at, grid, column) for column in blended)
    closed_at = np.interp(at, grid, soft)
    return MouthTrack(opening * (1.0 - closed_at), width, rounding, tuck, closed_at)


def _blur(values: np.ndarray, deviation: float) -> np.ndarray:
    """Smooths ``values`` ``[N]`` on the grid by a Gaussian of ``deviation`` seconds; the ends are repeated."""
    reach = round(4.0 * deviation / _STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * _STEP / deviation) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
