"""The contents of ``results.json``, which evaluation writes and the report, the bars and other programs read.

Keys are added over time. When one is renamed or removed, ``EVALUATION_SCHEMA`` is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np

from s2v_ray.config import Recipe
from s2v_ray.metrics import bootstrap_mean

EVALUATION_SCHEMA = 2


class IntervalResult(TypedDict):
    """A mean over clips with its 95% bootstrap interval; ``clips`` is the number of clips that have a value.

    ``mean``, ``low`` and ``high`` are None if no clip has a value.
    """

    mean: float | None
    low: float | None
    high: float | None
    clips: int


class MetricResult(TypedDict):
    """Description of a metric; see ``metrics.Metric``."""

    name: str
    better: Literal["higher", "lower", "one"]
    unit: str
    digits: int
    about: str


class RowResult(TypedDict):
    """One row of the table.

    ``note``: not empty if another row is shown in its place. ``values``: metric -> interval over clips. ``lags``:
    ``mouth``, the number of frames by which the generated mouth comes late, and ``sync``, the number of frames by which
    the speech comes after the frames; each at the peak of the clips' mean curve, or None if that curve is flat.
    """

    note: str
    values: dict[str, IntervalResult]
    lags: dict[str, int | None]


class ContrastResult(TypedDict):
    """Means of ``metrics.emotion.Contrast`` over ``clips`` clips; the worst pair is that of the worst clip."""

    share: float
    difference: float
    noise: float
    threshold: float
    worst_pair: list[str]
    worst_share: float
    clips: int
    emotions: list[str]


class ProbeResult(TypedDict):
    """Result of a linear probe; see ``metrics.probe.Probe``."""

    accuracy: float
    chance: float
    classes: int
    clips: int


class StudentResult(TypedDict):
    """Figures of the student; a figure that does not apply is None, and ``notes`` gives the reason.

    ``emotion_accuracy``: share of held-out clips whose largest logit is the true emotion. ``identity_accuracy``: share
    of held-out clips whose speech identity is nearest (cosine) to the centroid of their own speaker, among ``speakers``
    centroids of the teacher's codes of training clips. ``leak_emotion``: linear probe for emotion on the identity code.
    ``leak_identity``: linear probe for the speaker on the emotion code. ``clips``: number of held-out clips.
    """

    emotion_accuracy: IntervalResult | None
    identity_accuracy: IntervalResult | None
    speakers: int
    clips: int
    leak_emotion: ProbeResult | None
    leak_identity: ProbeResult | None
    notes: list[str]


class BarResult(TypedDict):
    """A figure and the bar that it is held to; ``met`` is None if the figure or the bar does not apply.

    ``at_least``: whether the value must be at least the bar; otherwise at most.
    """

    key: str
    what: str
    value: float | None
    bar: float | None
    at_least: bool
    met: bool | None


class ClipResults(TypedDict):
    """What is measured on the clips.

    ``emotion_truth``: what the metric ``emotion`` compares with. ``missing_judges``: roles whose metrics are left out.
    ``metrics``: metric -> description. ``rows``: row -> result, in the order of ``rows.ROWS``. ``contrast``: None for a
    bundle with one emotion. ``frames_per_second``: speed of generation, without reading and writing files.
    """

    clips: int
    speakers: int
    emotion_truth: str
    missing_judges: list[str]
    metrics: dict[str, MetricResult]
    rows: dict[str, RowResult]
    contrast: ContrastResult | None
    frames_per_second: float


class Results(ClipResults):
    """Everything in ``results.json``: the results of the clips and of the student, and what was evaluated."""

    student: StudentResult
    schema: int
    corpus: str
    bundle: str
    reference_bundle: str | None
    recipe: str
    config_digest: str
    split: str
    bars: list[BarResult]


def mean_interval(values: Sequence[float] | np.ndarray, recipe: Recipe) -> IntervalResult:
    """Mean of the values of clips, with the interval that the recipe's section ``evaluate`` configures."""
    interval = bootstrap_mean(values, recipe.evaluate.bootstrap, recipe.seed)
    return IntervalResult(mean=interval.mean, low=interval.low, high=interval.high, clips=interval.clips)
