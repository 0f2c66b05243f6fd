"""The contents of ``results.json``, which evaluation writes and the report, the bars and other programs read.

Keys are added over time. When one is renamed or removed, ``EVALUATION_SCHEMA`` is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np

from s2v_ray import storage
from s2v_ray.config import Recipe
from s2v_ray.metrics import bootstrap_mean

EVALUATION_SCHEMA = 3
"""Raised to 3 with the rows of other takes, paired differences, and the sync metrics' own names."""


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
    better: Literal["higher", "lower", "one", "real"]
    unit: str
    digits: int
    about: str


class RowResult(TypedDict):
    """One row of the table.

    ``about``: what the row shows. ``note``: not empty if some clips do not have it. ``values``: metric -> interval over
    clips. ``lags``: ``mouth``, the number of frames by which the generated mouth comes late, and ``sync``, the number
    of frames by which the speech comes after the frames; each at the peak of the clips' mean curve, or None if that
    curve is flat.
    """

    about: str
    note: str
    values: dict[str, IntervalResult]
    lags: dict[str, int | None]


class DifferenceResult(TypedDict):
    """A paired difference between two rows; see ``metrics.paired.Difference``. Positive: ``row`` is better.

    ``margin``: largest loss with which ``row`` is not inferior, in the unit of the metric, or None if none is declared.
    ``not_inferior``: whether the lower end of the interval is above ``-margin``; None without margin or interval.
    """

    row: str
    base: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    clips: int
    speakers: int
    resampled: Literal["speakers", "clips"]
    margin: float | None
    not_inferior: bool | None


class TwoSampleResult(TypedDict):
    """Classifier two-sample test of two rows; see ``metrics.two_sample.TwoSample``."""

    first: str
    second: str
    accuracy: float
    low: float
    high: float
    clips: int


class ConfusionResult(TypedDict):
    """The emotion judge's answers for clips that were generated with each emotion; see ``metrics.emotion.Confusion``.

    ``clips``: number of clips whose speech was generated with every emotion. ``unknown``: emotions of the bundle that
    the judge does not know; they are left out.
    """

    asked: list[str]
    seen: list[str]
    counts: list[list[int]]
    share: float
    chance: float
    clips: int
    unknown: list[str]


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
    """A figure and the bar that it is held to; ``met`` is None if the figure or a limit does not apply.

    ``at_least`` and ``at_most``: limits of the figure; None if there is none on that side.
    """

    key: str
    what: str
    value: float | None
    at_least: float | None
    at_most: float | None
    met: bool | None


class ClipResults(TypedDict):
    """What is measured on the clips.

    ``emotion_truth``: what the metric ``emotion`` compares with. ``missing_judges``: roles whose metrics are left out.
    ``networks``: role -> name of the network that measured. ``notes``: what else was left out, or replaced by what.
    ``metrics``: metric -> description. ``rows``: row -> result, in the order of ``rows.ROWS``. ``missing_rows``: row ->
    reason, for rows that no clip has. ``best_of``: K of the rows "best of K". ``differences``, ``two_sample``: between
    rows. ``diversity``: variance outside the mouth over sampled takes, relative to that over real takes of the speaker.
    ``confusion``: None without an emotion judge, or for a bundle with one emotion. ``frames_per_second``: speed of
    generation, without reading and writing files.
    """

    clips: int
    speakers: int
    best_of: int
    emotion_truth: str
    missing_judges: list[str]
    networks: dict[str, str]
    notes: list[str]
    metrics: dict[str, MetricResult]
    rows: dict[str, RowResult]
    missing_rows: dict[str, str]
    differences: list[DifferenceResult]
    two_sample: list[TwoSampleResult]
    diversity: IntervalResult | None
    confusion: ConfusionResult | None
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
    protocol: str
    bars: list[BarResult]


def check_schema(results: Results) -> Results:
    """Returns results that this version can read.

    Raises:
        ArtifactError: they were made by another version.
    """
    if results.get("schema") != EVALUATION_SCHEMA:
        raise storage.ArtifactError(
            f"the evaluation has schema {results.get('schema')}, this version reads {EVALUATION_SCHEMA}: "
            "rows, metrics and bars differ, so run `s2v evaluate` again"
        )
    return results


def mean_interval(values: Sequence[float] | np.ndarray, recipe: Recipe) -> IntervalResult:
    """Mean of the values of clips, with the interval that the recipe's section ``evaluate`` configures."""
    interval = bootstrap_mean(values, recipe.evaluate.bootstrap, recipe.seed)
    return IntervalResult(mean=interval.mean, low=interval.low, high=interval.high, clips=interval.clips)
