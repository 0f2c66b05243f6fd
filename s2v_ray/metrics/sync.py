"""Lip sync: correlation with the true opening of the mouth, and the distances of a sync network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_LAG = 5
"""Largest lag of the mouth that is searched, in frames either way."""
MAX_OFFSET = 15
"""Largest offset between speech and frames that is searched, in frames either way, as in SyncNet."""
MIN_OVERLAP = 5
"""Smallest number of windows, or frames, that must overlap at an offset for it to count."""


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two sequences ``[T]``, in [-1, 1]; 0 if one of them is constant."""
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size > 1e-8 else 0.0


def cross_correlation(generated: np.ndarray, truth: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """Correlation of ``generated[t + k]`` with ``truth[t]`` for k in -max_lag..max_lag.

    Args:
        generated: ``[T]``: opening of the mouth in generated frames.
        truth: ``[T]``: true opening.
        max_lag: largest lag, in frames.

    Returns:
        ``[2 * max_lag + 1]``; NaN at lags that leave fewer than ``MIN_OVERLAP`` frames.

    Raises:
        ValueError: the lengths differ.
    """
    if generated.shape != truth.shape:
        raise ValueError(f"openings of {generated.shape} and {truth.shape} frames must have the same length")
    return np.array(
        [
            correlation(*_shifted(generated, truth, k)) if len(truth) - abs(k) >= MIN_OVERLAP else np.nan
            for k in range(-max_lag, max_lag + 1)
        ]
    )


def peak(curve: np.ndarray) -> int | None:
    """Offset in frames of the maximum of a curve over offsets ``-m..m``; of equal maxima, the one nearest to 0.

    A positive offset means that the generated frames come late. None if the curve is flat or has no finite value.
    """
    if not np.isfinite(curve).any() or np.nanmax(curve) - np.nanmin(curve) < 1e-8:
        return None
    offsets = np.arange(len(curve)) - len(curve) // 2
    best = offsets[np.flatnonzero(curve >= np.nanmax(curve) - 1e-9)]
    return int(best[np.argmin(np.abs(best))])


@dataclass(frozen=True)
class SyncScore:
    """Score of a sync network.

    Attributes:
        confidence: the median minus the minimum of the mean distances over offsets.
        distance: the minimum of the mean distances over offsets.
        offset: offset of that minimum: the number of frames by which the speech comes after the frames.
    """

    confidence: float
    distance: float
    offset: int | None


def sync_distances(speech: np.ndarray, frames: np.ndarray, max_offset: int = MAX_OFFSET) -> np.ndarray:
    """Mean Euclidean distance of ``speech[t + k]`` and ``frames[t]`` for k in -max_offset..max_offset.

    Args:
        speech: ``[N, D]``: unit embeddings of N windows of speech by the sync network.
        frames: ``[N, D]``: unit embeddings of the N windows of frames.
        max_offset: largest offset, in frames.

    Returns:
        ``[2 * max_offset + 1]`` in [0, 2]; NaN at offsets that leave fewer than ``MIN_OVERLAP`` windows.

    Raises:
        ValueError: the shapes differ.
    """
    if speech.shape != frames.shape:
        raise ValueError(f"embeddings {speech.shape} of speech and {frames.shape} of frames must have the same shape")
    return np.array(
        [
            np.linalg.norm(np.subtract(*_shifted(speech, frames, k)), axis=1).mean()
            if len(frames) - abs(k) >= MIN_OVERLAP
            else np.nan
            for k in range(-max_offset, max_offset + 1)
        ]
    )


def sync_score(distances: np.ndarray) -> SyncScore:
    """Computes the minimum of the mean distances over offsets, and their median minus that minimum.

    The formulas are those of LSE-D and LSE-C (Chung and Zisserman 2016, Prajwal et al. 2020), which are defined by the
    weights of SyncNet. With another network the scale is another, so the names are others too. Both are NaN if no
    offset counts.
    """
    if not np.isfinite(distances).any():
        return SyncScore(float("nan"), float("nan"), None)
    minimum = float(np.nanmin(distances))
    return SyncScore(float(np.nanmedian(distances)) - minimum, minimum, peak(-distances))


def in_sync_confidence(distances: np.ndarray) -> float:
    """Median of the mean distances over offsets minus the distance at offset 0.

    It equals the confidence of ``sync_score`` for a clip that is in sync and is smaller, possibly negative, for one
    that is not. NaN if offset 0 does not count.
    """
    in_sync = float(distances[len(distances) // 2])
    return float(np.nanmedian(distances)) - in_sync if np.isfinite(in_sync) else float("nan")


def _shifted(a: np.ndarray, b: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The overlapping parts of ``a[t + k]`` and ``b[t]``."""
    n = len(b) - abs(k)
    return (a[k : k + n], b[:n]) if k >= 0 else (a[:n], b[-k : -k + n])
