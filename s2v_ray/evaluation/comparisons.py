"""Figures of several clips or rows: kernel distances, paired differences, two-sample tests, diversity of takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from s2v_ray.clip import Clip
from s2v_ray.config import Recipe
from s2v_ray.evaluation.measuring import Measurements
from s2v_ray.evaluation.results import DifferenceResult, IntervalResult, MetricResult, TwoSampleResult
from s2v_ray.evaluation.rows import OTHER_TAKE, REAL, REFERENCE, REFERENCE_OTHER, SPEECH, SPEECH_TAKE, STILL
from s2v_ray.evaluation.takes import Takes
from s2v_ray.metrics.clip_metrics import METRICS, judged_frames
from s2v_ray.metrics.distribution import MIN_CLIPS, kernel_distance
from s2v_ray.metrics.paired import MARGINS, paired_difference
from s2v_ray.metrics.two_sample import two_sample_test
from s2v_ray.models.judges import Judges

COMPARED = (
    (SPEECH_TAKE, REFERENCE),
    (SPEECH, REFERENCE_OTHER),
    (SPEECH, OTHER_TAKE),
    (SPEECH_TAKE, STILL),
)
"""Pairs of rows whose paired differences are computed, the row first and its base second."""
DIFFERENCES = ("psnr", "ssim", "csim", "landmark_distance", "gmsd", "error_mouth")
"""Metrics of the paired differences. Those in ``metrics.paired.MARGINS`` have a margin."""
TOLD_APART = (
    (SPEECH, REFERENCE_OTHER),
    (SPEECH_TAKE, REFERENCE),
    (SPEECH, OTHER_TAKE),
    (OTHER_TAKE, REAL),
)
"""Pairs of rows of the two-sample test. The last one is the scale: both are real footage."""
KERNEL_ROLES = ("identity", "emotion")
"""Judges on whose outputs kernel distances are computed: nothing was trained with them."""
REAL_CLIPS, MAX_KERNEL_CLIPS = 3, 200
"""Real training clips of a speaker for each of the speaker's evaluated clips, and the largest number of clips of a
kernel distance: real ones of all speakers, or evaluated ones of one speaker."""


RealCodes = dict[str, dict[str, list[np.ndarray]]]
"""Role -> speaker -> for each real training clip, the judge's outputs ``[N, D]``: the reference of kernel distances."""


@torch.inference_mode()
def read_real_codes(takes: Takes, clips: Sequence[Clip], judges: Judges) -> RealCodes:
    """Judges' outputs for training clips of the evaluated speakers, in the proportion in which these are evaluated."""
    found: RealCodes = {}
    budget = MAX_KERNEL_CLIPS
    for speaker, count in Counter(clip.speaker for clip in clips).most_common():
        references = takes.references(speaker, min(REAL_CLIPS * count, budget)) if count >= MIN_CLIPS else []
        budget -= len(references)
        for role in KERNEL_ROLES:
            if (judge := getattr(judges, role)) is not None:
                outputs = [judge(judged_frames(clip.frames)).numpy() for clip in references]
                found.setdefault(role, {})[speaker] = outputs
    return found


def kernel_distances(measured: Measurements, real: RealCodes) -> dict[str, dict[str, IntervalResult]]:
    """Row -> ``kid_identity`` and ``kid_emotion`` -> the distance times 1000; rows with too few clips are left out."""
    found: dict[str, dict[str, IntervalResult]] = {}
    for row, roles in measured.codes.items():
        for role, codes in roles.items():
            by_speaker: dict[str, list[np.ndarray]] = {}
            for i in sorted(codes):
                by_speaker.setdefault(measured.speakers[i], []).append(codes[i])
            d = kernel_distance(
                {name: some[:MAX_KERNEL_CLIPS] for name, some in by_speaker.items()}, real.get(role, {})
            )
            if d is not None:
                interval = IntervalResult(mean=1e3 * d.mean, low=1e3 * d.low, high=1e3 * d.high, clips=d.clips)
                found.setdefault(row, {})[f"kid_{role}"] = interval
    return found


def describe_kernel_distances(names: dict[str, str]) -> dict[str, MetricResult]:
    """Descriptions of the kernel distances; ``names``: role of a judge -> its name."""
    return {
        f"kid_{role}": MetricResult(
            name=f"KID {role}",
            better="lower",
            unit="1e-3",
            digits=1,
            about=f"kernel distance (Binkowski et al. 2018) of frames to real training frames, speaker by speaker, on "
            f"the outputs of the {role} judge ({names[role]}); the row of real clips is the scale",
        )
        for role in KERNEL_ROLES
        if role in names
    }


def paired_differences(measured: Measurements, recipe: Recipe) -> list[DifferenceResult]:
    """Paired differences of ``COMPARED`` in ``DIFFERENCES``; pairs without values are left out."""
    found: list[DifferenceResult] = []
    for row, base in COMPARED:
        for metric in DIFFERENCES:
            ours, theirs = measured.array(row, metric), measured.array(base, metric)
            if ours is None or theirs is None:
                continue
            d = paired_difference(
                ours,
                theirs,
                measured.speakers,
                better=METRICS[metric].metric.better,
                resamples=recipe.evaluate.bootstrap,
                seed=recipe.seed,
            )
            margin = _margin(metric, theirs)
            found.append(
                DifferenceResult(
                    row=row,
                    base=base,
                    metric=metric,
                    mean=d.mean,
                    low=d.low,
                    high=d.high,
                    clips=d.clips,
                    speakers=d.speakers,
                    resampled=d.resampled,
                    margin=margin,
                    not_inferior=None if margin is None else d.not_inferior(margin),
                )
            )
    return found


def _margin(metric: str, base: np.ndarray) -> float | None:
    """The margin of a metric in its unit, or None if it has none."""
    declared, finite = MARGINS.get(metric), base[np.isfinite(base)]
    if declared is None or (declared.relative and not len(finite)):
        return None
    return declared.size * float(finite.mean()) if declared.relative else declared.size


def two_sample_tests(measured: Measurements, recipe: Recipe) -> list[TwoSampleResult]:
    """Two-sample tests of ``TOLD_APART``; pairs with too few clips are left out."""
    found: list[TwoSampleResult] = []
    for first, second in TOLD_APART:
        ours, theirs = measured.features.get(first, {}), measured.features.get(second, {})
        both = sorted(ours.keys() & theirs.keys())
        tested = two_sample_test(
            [ours[i] for i in both], [theirs[i] for i in both], recipe.evaluate.bootstrap, recipe.seed
        )
        if tested is not None:
            found.append(
                TwoSampleResult(
                    first=first,
                    second=second,
                    accuracy=tested.accuracy,
                    low=tested.low,
                    high=tested.high,
                    clips=tested.clips,
                )
            )
    return found


def diversity_of(sampled: Sequence[float], real: Sequence[float], recipe: Recipe) -> IntervalResult | None:
    """Ratio of the mean variance over sampled takes to that over real takes, with its bootstrap interval over clips.

    Args:
        sampled: for each clip, ``metrics.appearance.take_variance`` of its samples.
        real: for the same clips, that of other real takes of the speaker.
        recipe: its section ``evaluate`` configures the interval.

    Returns:
        The ratio, or None without clips or if real takes do not vary.
    """
    ours, theirs = np.asarray(sampled, np.float64), np.asarray(real, np.float64)
    if not len(ours) or not theirs.mean() > 0:
        return None
    rng = np.random.default_rng(recipe.seed)
    drawn = rng.integers(0, len(ours), (recipe.evaluate.bootstrap, len(ours)))
    means = theirs[drawn].mean(axis=1)
    ratios = ours[drawn].mean(axis=1)[means > 0] / means[means > 0]
    low, high = np.percentile(ratios, [2.5, 97.5])
    return IntervalResult(mean=float(ours.mean() / theirs.mean()), low=float(low), high=float(high), clips=len(ours))
