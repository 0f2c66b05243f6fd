"""Lip sync: by the mouth's opening where the truth is known, and by a sync network anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_LAG = 5
"""Lags of the mouth searched, frames either way."""
MAX_OFFSET = 15
"""Offsets of sound against picture searched, frames either way (SyncNet's)."""
MIN_OVERLAP = 5
"""Windows, or frames, that must remain at an offset for it to count."""


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of two sequences ``[T]``, in [-1, 1]; 0 where one is constant: it tells nothing of the other."""
    a, b = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size > 1e-8 else 0.0


def cross_correlation(generated: np.ndarray, truth: np.ndarray, max_lag: int = MAX_LAG) -> np.ndarray:
    """Correlation of ``generated[t + k]`` with ``truth[t]`` for k in -max_lag..max_lag.

    Args:
        generated, truth: ``[T]``.

    Returns:
        ``[2 * max_lag + 1]``; NaN at lags that leave fewer than ``MIN_OVERLAP`` frames.

    Raises:
        ValueError: lengths differ.
    """
    if generated.shape != truth.shape:
        raise ValueError(f"openings of {generated.shape} and {truth.shape} frames cannot be compared")
    return np.array(
        [
            correlation(*_shifted(generated, truth, k)) if len(truth) - abs(k) >= MIN_OVERLAP else np.nan
            for k in range(-max_lag, max_lag + 1)
        ]
    )


def peak(curve: np.ndarray) -> int | None:
    """Offset in frames of the maximum of a curve over offsets ``-m..m``; the one nearest 0 among equals.

    Positive: what was generated comes late. None where the curve is flat or empty.
    """
    if not np.isfinite(curve).any() or np.nanmax(curve) - np.nanmin(curve) < 1e-8:
        return None
    offsets = np.arange(len(curve)) - len(curve) // 2
    best = offsets[np.flatnonzero(curve >= np.nanmax(curve) - 1e-9)]
    return int(best[np.argmin(np.abs(best))])


@dataclass(frozen=True)
class SyncScore:
    """confidence = LSE-C, distance = LSE-D, offset: frames by which the sound comes after the picture at the best match."""

    confidence: float
    distance: float
    offset: int | None


def sync_distances(speech: np.ndarray, frames: np.ndarray, max_offset: int = MAX_OFFSET) -> np.ndarray:
    """Mean Euclidean distance of ``speech[t + k]`` and ``frames[t]`` for k in -max_offset..max_offset.

    Args:
        speech, frames: ``[N, D]`` unit embeddings of N windows by the sync network.

    Returns:
        ``[2 * max_offset + 1]`` in [0, 2]; NaN at offsets that leave fewer than ``MIN_OVERLAP`` windows.

    Raises:
        ValueError: shapes differ.
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
    """LSE-D (the least of the mean distances over offsets) and LSE-C (their median - the least), after Chung & Zisserman
    2016 and Prajwal et al. 2020; NaN where no offset counts."""
    if not np.isfinite(distances).any():
        return SyncScore(float("nan"), float("nan"), None)
    least = float(np.nanmin(distances))
    return SyncScore(float(np.nanmedian(distances)) - least, least, peak(-distances))


def in_step_confidence(distances: np.ndarray) -> float:
    """Median of the mean distances over offsets - that in step: LSE-C of a clip that is in step, and less, down to below 0, of
    one that is not. NaN where no offset counts."""
    in_step = float(distances[len(distances) // 2])
    return float(np.nanmedian(distances)) - in_step if np.isfinite(in_step) else float("nan")


def _shifted(a: np.ndarray, b: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """``a[t + k]`` beside ``b[t]``, where both are there."""
    n = len(b) - abs(k)
    return (a[k : k + n], b[:n]) if k >= 0 else (a[:n], b[-k : -k + n])
