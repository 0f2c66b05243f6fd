"""Emotion: the judge's emotion of a clip, and how visibly the emotions differ in generated frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from s2v_ray.metrics.image import crop

VISIBLE = 2.0
"""Smallest mean absolute difference over the face that counts as visible, in grey levels of 255."""
NOISE_FACTOR = 2.0
"""A visible difference is also at least this multiple of the difference between two noise seeds."""


def clip_emotion(logits: Tensor, labels: Sequence[str]) -> str:
    """The emotion that a judge gives a clip: the label of the largest mean logit.

    Args:
        logits: ``[N, K]``: logits of N frames.
        labels: K names.
    """
    return labels[int(logits.mean(0).argmax())]


@dataclass(frozen=True)
class Contrast:
    """How visibly emotions differ in frames of the same speech and identity.

    Attributes:
        share: share of all (frame, pair of emotions) that differ visibly.
        worst_pair: the pair of emotions that differs in the fewest frames.
        worst_share: share of the frames in which that pair differs visibly.
        difference: mean absolute difference over all frames and pairs, in grey levels.
        noise: mean absolute difference between two seeds of one emotion, in grey levels.
        threshold: smallest difference that counted as visible, in grey levels.
    """

    share: float
    worst_pair: tuple[str, str]
    worst_share: float
    difference: float
    noise: float
    threshold: float


def emotion_contrast(frames: Mapping[str, np.ndarray], again: np.ndarray) -> Contrast:
    """Compares frames of the same speech and identity that were generated with each emotion.

    A frame differs visibly between two emotions if its mean absolute difference over the face region is larger than
    ``max(VISIBLE, NOISE_FACTOR * noise)``, where noise is the mean difference between two seeds of the first emotion.

    Args:
        frames: emotion -> uint8 ``[T, H, W, 3]``, all with one seed.
        again: frames of the first emotion with another seed.

    Raises:
        ValueError: fewer than two emotions.
    """
    if len(frames) < 2:
        raise ValueError(f"a contrast needs frames of at least two emotions, not {len(frames)}")
    first = next(iter(frames.values()))
    noise = float(_frame_difference(first, again).mean())
    threshold = max(VISIBLE, NOISE_FACTOR * noise)
    pairs = {(a, b): _frame_difference(frames[a], frames[b]) for a, b in combinations(frames, 2)}
    shares = {pair: float((d > threshold).mean()) for pair, d in pairs.items()}
    worst = min(shares, key=lambda pair: shares[pair])
    difference = float(np.mean([d.mean() for d in pairs.values()]))
    return Contrast(float(np.mean(list(shares.values()))), worst, shares[worst], difference, noise, threshold)


def face_region(size: int) -> tuple[int, int, int, int]:
    """Box of the face (brows to chin) in an aligned crop of ``size`` pixels: rows 0.20..0.95, columns 0.15..0.85."""
    return round(0.20 * size), round(0.95 * size), round(0.15 * size), round(0.85 * size)


def _frame_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``[T]``: mean absolute difference over the face region, grey levels."""
    box = face_region(a.shape[1])
    difference: np.ndarray = np.abs(crop(a, box).astype(np.int16) - crop(b, box).astype(np.int16))
    means: np.ndarray = difference.mean(axis=(1, 2, 3))
    return means
