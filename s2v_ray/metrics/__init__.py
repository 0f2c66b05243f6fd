"""What is measured, which way is better, and how sure the figure is.

``METRICS`` is the one table of evaluation: adding a metric is a function in one of the modules, one line here, and one line in
``evaluation.evaluate.measure``. ``VALIDATION`` is that of what training measures on the validation split while it goes on, by
which sweeps rank and checkpoints are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Metric:
    """How a figure is read.

    Attributes:
        name: column heading.
        better: "higher", "lower", or "one" where the best value is 1 (a ratio to the real clips).
        unit: "" where it has none.
        digits: digits after the point worth printing.
        about: one line: what it is.
    """

    name: str
    better: Literal["higher", "lower", "one"]
    unit: str
    digits: int
    about: str

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", "one": "→1"}[self.better]


METRICS: dict[str, Metric] = {
    "psnr": Metric("PSNR", "higher", "dB", 2, "peak signal to noise against the real clip, over all pixels of a clip"),
    "psnr_mouth": Metric("PSNR mouth", "higher", "dB", 2, "the same, mouth region alone"),
    "ssim": Metric("SSIM", "higher", "", 3, "structural similarity to the real frame (11 px Gaussian window)"),
    "ssim_mouth": Metric("SSIM mouth", "higher", "", 3, "the same, mouth region alone"),
    "error_mouth": Metric(
        "L1 mouth", "lower", "levels", 2, "mean absolute error in the mouth region, grey levels of 255"
    ),
    "cpbd": Metric("CPBD", "higher", "", 3, "share of edges on which no blur would be detected"),
    "cpbd_mouth": Metric("CPBD mouth", "higher", "", 3, "the same, edges in the mouth region alone"),
    "movement_mouth": Metric(
        "movement", "one", "", 2, "mean absolute frame difference in the mouth region, relative to the real clip's"
    ),
    "acd": Metric(
        "ACD-C", "lower", "", 3, "mean of 1 - cosine of a frame's identity (judge) to the real clip's mean identity"
    ),
    "csim": Metric("CSIM", "higher", "", 3, "mean cosine of a frame's identity (judge) to that of the same real frame"),
    "emotion": Metric("emotion", "higher", "", 3, "share of clips whose emotion, to the judge, is the true one"),
    "mouth_correlation": Metric(
        "mouth corr", "higher", "", 3, "correlation of the mouth's opening, read by the judge, with the true one"
    ),
    "mouth_lag": Metric(
        "mouth |lag|", "lower", "frames", 2, "mean size of the lag at which that correlation peaks, within 5 frames"
    ),
    "lse_c": Metric(
        "LSE-C",
        "higher",
        "",
        3,
        "confidence of the sync judge: median - minimum of the distances over offsets within 15 frames",
    ),
    "lse_d": Metric("LSE-D", "lower", "", 3, "minimum over these offsets of the mean distance of sound and picture"),
    "sync_offset": Metric("sync |offset|", "lower", "frames", 2, "mean size of the offset at which that minimum lies"),
}

VALIDATION: dict[str, Metric] = {
    "l1": Metric("L1", "lower", "", 4, "mean absolute error of the window, of a range of 2"),
    "mouth_l1": Metric("L1 mouth", "lower", "", 4, "the same, mouth region alone"),
    "psnr": METRICS["psnr"],
    "ssim": METRICS["ssim"],
    "identity": METRICS["csim"],
    "emotion": Metric(
        "emotion", "higher", "", 3, "share of clips in which the emotion judge sees what it sees in the real clip"
    ),
    "sync": Metric(
        "sync",
        "higher",
        "",
        3,
        "confidence of the sync judge that the clip is in step: median of the distances over offsets - that at none",
    ),
    "realism": Metric(
        "realism",
        "lower",
        "",
        4,
        "squared Fréchet distance of the identity judge's codes of real and of generated frames",
    ),
    "identity_cosine": Metric("identity cosine", "higher", "", 3, "mean cosine of the heard identity to the seen one"),
    "emotion_agreement": Metric(
        "emotion agreement", "higher", "", 3, "share of clips whose heard emotion is the seen one"
    ),
    "leak_emotion": Metric(
        "leak of emotion", "lower", "", 3, "accuracy of a linear probe for the seen emotion on the heard identity"
    ),
    "leak_identity": Metric(
        "leak of identity", "lower", "", 3, "accuracy of a linear probe for the speaker on the heard emotion"
    ),
}
"""The names of a record in metrics.jsonl carry ``val_`` before them."""


@dataclass(frozen=True)
class Interval:
    """A mean over clips with its bootstrapped 95% interval; all None where no clip has a value."""

    mean: float | None
    low: float | None
    high: float | None
    clips: int


def bootstrap_mean(values: np.ndarray | list[float], resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean over clips and its 95% percentile bootstrap interval (Efron 1979).

    Args:
        values: ``[n]``, one a clip; what is not finite (not applicable to that clip) is left out.
        resamples: number of resamples, with replacement.
        seed: the same seed gives the same interval.
    """
    kept = np.asarray(values, np.float64)
    kept = kept[np.isfinite(kept)]
    if not len(kept):
        return Interval(None, None, None, 0)
    chosen = np.random.default_rng(seed).integers(0, len(kept), (resamples, len(kept)))
    low, high = np.percentile(kept[chosen].mean(axis=1), [2.5, 97.5])
    return Interval(float(kept.mean()), float(low), float(high), len(kept))
