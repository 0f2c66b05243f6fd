"""Distances between sets of frames: the kernel Inception distance with codes of any network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MIN_CLIPS = 3
"""Smallest number of clips of a speaker in each set: the jackknife leaves one out, and pairs must remain."""


@dataclass(frozen=True)
class KernelDistance:
    """A squared kernel distance with its 95% interval.

    Attributes:
        mean: the unbiased estimate. It can be negative where the true distance is near 0.
        low: lower end of the interval.
        high: upper end of the interval.
        clips: number of clips of the first set that count.
    """

    mean: float
    low: float
    high: float
    clips: int


Codes = Sequence[np.ndarray]
"""For each clip, codes ``[N, D]`` of its frames."""


def kernel_distance(clips: Mapping[str, Codes], real: Mapping[str, Codes]) -> KernelDistance | None:
    """KID: squared maximum mean discrepancy with the kernel ``(x y / D + 1)^3`` (Binkowski et al. 2018), unbiased.

    It is computed for each speaker and averaged, weighted by the speaker's clips: over a mixture of speakers, it would
    mostly compare how many clips each has. Codes are divided by the root mean square of all real codes, so that the
    kernel has the same shape for codes of any scale; for unit codes it is ``(cos + 1)^3``. Frames of one clip are
    nearly equal, so pairs within a clip are left out of the means, as Binkowski et al. leave out pairs of a sample with
    itself. The interval is the normal one with the jackknife's standard error over the clips of the first set.

    Args:
        clips: speaker -> codes of the clips of the first set.
        real: speaker -> codes of real clips. Speakers with fewer than ``MIN_CLIPS`` clips in either set are left out.

    Returns:
        The distance, or None if no speaker is left.

    Raises:
        ValueError: the real codes are all 0.
    """
    speakers = [name for name in clips if min(len(clips[name]), len(real.get(name, ()))) >= MIN_CLIPS]
    if not speakers:
        return None
    scale = float(np.sqrt(np.mean(np.concatenate([code for name in speakers for code in real[name]]) ** 2.0)))
    if not scale > 0:
        raise ValueError("the real codes are all 0")
    count = sum(len(clips[name]) for name in speakers)
    mean, variance = 0.0, 0.0
    for name in speakers:
        own, theirs = ([np.asarray(x, np.float64) / scale for x in y[name]] for y in (clips, real))
        estimates = _estimates(own, theirs)
        weight, n = len(own) / count, len(own)
        mean += weight * float(estimates[0])
        variance += weight**2 * (n - 1) / n * float(np.square(estimates[1:] - estimates[1:].mean()).sum())
    error = float(np.sqrt(variance))
    return KernelDistance(mean, mean - 1.96 * error, mean + 1.96 * error, count)


def _estimates(a: Codes, b: Codes) -> np.ndarray:
    """The unbiased estimate with all clips of ``a``, then without each of them: ``[1 + A]``."""
    within, within_pairs = _block_sums(a, a)
    between, between_pairs = _block_sums(a, b)
    real, real_pairs = _block_sums(b, b)
    real_term = _off_diagonal(real) / _off_diagonal(real_pairs)
    estimates = []
    for left_out in range(-1, len(a)):
        kept = np.arange(len(a)) != left_out
        own = _off_diagonal(within[np.ix_(kept, kept)]) / _off_diagonal(within_pairs[np.ix_(kept, kept)])
        estimates.append(own + real_term - 2.0 * between[kept].sum() / between_pairs[kept].sum())
    return np.array(estimates)


def _block_sums(a: Codes, b: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the kernel over the frames of each pair of clips, and the number of its terms: ``[A, B]`` each."""
    starts_a, starts_b = (np.cumsum([0, *(len(x) for x in y)])[:-1] for y in (a, b))
    codes_a, codes_b = np.concatenate(list(a)), np.concatenate(list(b))
    kernel = (codes_a @ codes_b.T / codes_a.shape[1] + 1.0) ** 3
    sums: np.ndarray = np.add.reduceat(np.add.reduceat(kernel, starts_a, axis=0), starts_b, axis=1)
    pairs = np.outer([len(x) for x in a], [len(x) for x in b]).astype(np.float64)
    return sums, pairs


def _off_diagonal(matrix: np.ndarray) -> float:
    return float(matrix.sum() - np.trace(matrix))
