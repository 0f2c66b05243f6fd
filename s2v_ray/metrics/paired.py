"""Paired differences between rows, with bootstrap intervals clustered by speaker, and margins of non-inferiority."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MIN_CLUSTERS = 5
"""Smallest number of speakers that are resampled. With fewer, the interval would show chance alone."""
MAX_SHARE = 0.5
"""Largest share of the clips that one speaker may have for speakers to be resampled."""


@dataclass(frozen=True)
class Margin:
    """How much worse a row may be and still count as not inferior. Declared before anything is measured.

    Attributes:
        size: the margin, in the unit of the metric, or a share of the base row's mean.
        relative: whether ``size`` is a share.
    """

    size: float
    relative: bool = False


MARGINS = {
    "psnr": Margin(0.5),
    "ssim": Margin(0.01),
    "csim": Margin(0.02),
    "landmark_distance": Margin(0.05, relative=True),
}
"""Metric -> margin."""


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95% bootstrap interval.

    Attributes:
        mean: mean over clips of the difference, positive if the row is better; None without a clip.
        low: lower end of the interval, or None.
        high: upper end of the interval, or None.
        clips: number of clips that have both values.
        speakers: number of their speakers.
        resampled: what the bootstrap resamples: "speakers" (then their clips), or "clips".
    """

    mean: float | None
    low: float | None
    high: float | None
    clips: int
    speakers: int
    resampled: Literal["speakers", "clips"]

    def not_inferior(self, margin: float) -> bool | None:
        """Whether the lower end of the interval is above ``-margin``; None without an interval."""
        return None if self.low is None else self.low > -margin


def paired_difference(
    row: np.ndarray, base: np.ndarray, speakers: Sequence[str], *, better: str, resamples: int = 1000, seed: int = 0
) -> Difference:
    """Computes the mean over clips of ``row - base``, or of ``base - row`` if lower is better, with its interval.

    The clips of a speaker are correlated, so the interval resamples speakers with replacement and then the clips of
    each drawn speaker (two-stage bootstrap, Davison and Hinkley 1997, section 3.8). With fewer than ``MIN_CLUSTERS``
    speakers, or if one speaker has more than ``MAX_SHARE`` of the clips, it resamples clips, and says nothing about
    other speakers.

    Args:
        row: ``[n]``, values of the row for each clip; those that are not finite are left out with their pair.
        base: ``[n]``, values of the row that it is compared with.
        speakers: speaker of each clip.
        better: "higher" or "lower".
        resamples: number of resamples.
        seed: seed of the resampling.

    Raises:
        ValueError: the lengths differ, or the metric has no direction.
    """
    if not len(row) == len(base) == len(speakers):
        raise ValueError(f"{len(row)} and {len(base)} values of {len(speakers)} clips: there must be one for each")
    if better not in ("higher", "lower"):
        raise ValueError(f"a difference needs a metric that is better if it is higher or lower, not {better!r}")
    sign = 1.0 if better == "higher" else -1.0
    with np.errstate(invalid="ignore"):  # two exact clips have infinite PSNR, and no difference
        differences = sign * (np.asarray(row, np.float64) - np.asarray(base, np.float64))
    kept = np.isfinite(differences)
    values, owners = differences[kept], np.asarray(speakers)[kept]
    groups = [values[owners == name] for name in sorted(set(owners.tolist()))]
    clustered = len(groups) >= MIN_CLUSTERS and max(len(group) for group in groups) <= MAX_SHARE * len(values)
    if not len(values):
        return Difference(None, None, None, 0, 0, "clips")
    rng = np.random.default_rng(seed)
    means = _two_stage(groups, resamples, rng) if clustered else _one_stage(values, resamples, rng)
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(
        float(values.mean()), float(low), float(high), len(values), len(groups), "speakers" if clustered else "clips"
    )


def _one_stage(values: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    means: np.ndarray = values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
    return means


def _two_stage(groups: Sequence[np.ndarray], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Means of ``resamples`` draws of speakers, and of clips within each drawn speaker."""
    means = np.empty(resamples)
    for i in range(resamples):
        drawn = [groups[g] for g in rng.integers(0, len(groups), len(groups))]
        means[i] = np.concatenate([group[rng.integers(0, len(group), len(group))] for group in drawn]).mean()
    return means
