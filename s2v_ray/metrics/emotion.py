"""Which emotion does it show? The judge's verdict, and whether emotions can be told apart in what was generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from s2v_ray.metrics.image import crop

VISIBLE = 2.0
"""Mean absolute difference over the face from which two frames differ visibly, grey levels of 255."""
NOISE_FACTOR = 2.0
"""And at least so many times the difference that another noise seed makes."""


def verdict(logits: Tensor, labels: Sequence[str]) -> str:
    """The judge's emotion of a clip: the largest of the mean logits.

    Args:
        logits: ``[N, K]``, frame by frame.
        labels: K names.
    """
    return labels[int(logits.mean(0).argmax())]


@dataclass(frozen=True)
class Contrast:
    """How visibly emotions differ in frames of the same speech and identity.

    Attributes:
        share: of (frame, pair of emotions), those that differ visibly.
        worst_pair: the pair told apart in the fewest frames, and ``worst_share``, its share.
        difference: mean absolute difference over all frames and pairs, grey levels.
        noise: the same between two seeds of one emotion.
        threshold: grey levels from which a difference counted as visible.
    """

    share: float
    worst_pair: tuple[str, str]
    worst_share: float
    difference: float
    noise: float
    threshold: float


def emotion_contrast(frames: Mapping[str, np.ndarray], again: np.ndarray) -> Contrast:
    """Compares the same speech and identity generated with each emotion.

    A frame differs visibly between two emotions when its mean absolute difference over the face region is larger than
    ``max(VISIBLE, NOISE_FACTOR * noise)``; noise is that difference between two seeds of the first emotion.

    Args:
        frames: emotion -> uint8 ``[T, H, W, 3]``, all with one seed.
        again: the first emotion with another seed.

    Raises:
        ValueError: fewer than two emotions.
    """
    if len(frames) < 2:
        raise ValueError("emotions can only be compared where there are two or more")
    first = next(iter(frames.values()))
    noise = float(_frame_difference(first, again).mean())
    threshold = max(VISIBLE, NOISE_FACTOR * noise)
    pairs = {(a, b): _frame_difference(frames[a], frames[b]) for a, b in combinations(frames, 2)}
    shares = {pair: float((d > threshold).mean()) for pair, d in pairs.items()}
    worst = min(shares, key=lambda pair: shares[pair])
    difference = float(np.mean([d.mean() for d in pairs.values()]))
    return Contrast(float(np.mean(list(shares.values()))), worst, shares[worst], difference, noise, threshold)


def face_region(size: int) -> tuple[int, int, int, int]:
    """Box of brows, eyes, nose, mouth and chin in an aligned crop of ``size`` pixels: rows 0.20..0.95, columns 0.15..0.85."""
    return round(0.20 * size), round(0.95 * size), round(0.15 * size), round(0.85 * size)


def _frame_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``[T]``: mean absolute difference over the face region, grey levels."""
    box = face_region(a.shape[1])
    return np.abs(crop(a, box).astype(np.int16) - crop(b, box).astype(np.int16)).mean(axis=(1, 2, 3))
