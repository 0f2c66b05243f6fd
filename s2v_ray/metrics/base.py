"""The description of a metric, and the confidence interval of its mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Metric:
    """Description of a metric.

    Attributes:
        name: column heading.
        better: "higher", "lower", "one" if the best value is 1 (a ratio to the real clips), or "real" if it is that of
            the row of real clips.
        unit: unit, or "" if it has none.
        digits: number of digits after the decimal point that are printed.
        about: what it measures, in one line.
    """

    name: str
    better: Literal["higher", "lower", "one", "real"]
    unit: str
    digits: int
    about: str

    @property
    def arrow(self) -> str:
        """The direction of ``better`` as an arrow: ↑, ↓, →1 or →real."""
        return {"higher": "↑", "lower": "↓", "one": "→1", "real": "→real"}[self.better]


PSNR = Metric("PSNR", "higher", "dB", 2, "peak signal to noise against the real clip, over all pixels of a clip")
SSIM = Metric("SSIM", "higher", "", 3, "structural similarity to the real frame (11 px Gaussian window)")
CSIM = Metric("CSIM", "higher", "", 3, "mean cosine of a frame's identity (judge) to that of the same real frame")


@dataclass(frozen=True)
class Interval:
    """A mean over clips with its bootstrapped 95% interval.

    Attributes:
        mean: mean, or None if no clip has a value.
        low: lower end of the interval, or None.
        high: upper end of the interval, or None.
        clips: number of clips that have a value.
    """

    mean: float | None
    low: float | None
    high: float | None
    clips: int


def bootstrap_mean(values: np.ndarray | Sequence[float], resamples: int = 1000, seed: int = 0) -> Interval:
    """Computes the mean over clips and its 95% percentile bootstrap interval (Efron 1979).

    Args:
        values: ``[n]``, one value for each clip. Values that are not finite do not apply to their clip and are left
            out.
        resamples: number of resamples, with replacement.
        seed: seed of the resampling. The same seed gives the same interval.
    """
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        return Interval(None, None, None, 0)
    chosen = np.random.default_rng(seed).integers(0, len(kept), (resamples, len(kept)))
    low, high = np.percentile(kept[chosen].mean(axis=1), [2.5, 97.5])
    return Interval(float(kept.mean()), float(low), float(high), len(kept))
