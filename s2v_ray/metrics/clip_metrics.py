"""The metrics of evaluation: functions of one row of one clip, and the table that names them.

A row is one way to obtain frames for a clip's speech: the real clip itself, a still frame, a generator, and so on.
``register`` adds a metric from outside the package; the package's docstring shows how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import nan

import numpy as np
from torch import Tensor

from s2v_ray.metrics import appearance, image
from s2v_ray.metrics.base import CSIM, PSNR, SSIM, Metric
from s2v_ray.metrics.identity import average_content_distance, cosine_identity
from s2v_ray.metrics.image import Box
from s2v_ray.metrics.motion import BANDS, FaceSignals, band_motion, count_blinks, landmark_distance
from s2v_ray.metrics.sync import SyncScore, correlation, cross_correlation, peak, sync_score

JUDGED_FRAMES = 12
"""Number of frames of a clip, evenly spaced, on which identity, emotion, landmarks, sharpness and mottle are measured.
Everything else is measured on all frames."""


def judged_indices(count: int) -> np.ndarray:
    """Indices of at most ``JUDGED_FRAMES`` evenly spaced frames of ``count``, ``[N]``."""
    chosen: np.ndarray = np.linspace(0, count - 1, min(JUDGED_FRAMES, count)).round().astype(int)
    return chosen


def judged_frames(frames: np.ndarray) -> np.ndarray:
    """The frames of ``[T, H, W, 3]`` at ``judged_indices``."""
    chosen: np.ndarray = frames[judged_indices(len(frames))]
    return chosen


@dataclass(frozen=True, eq=False)
class JudgeOutputs:
    """Outputs of the judges for the frames of one row. An output is None if the corpus has no such judge.

    Attributes:
        identity: ``[N, D]``, unit length, for the ``judged_frames``.
        emotion: emotion of the clip.
        mouth_opening: ``[T]`` in [0, 1]; also None if the true opening is not known.
        sync_distances: see ``metrics.sync.sync_distances``; also None if the clip is too short.
        emotion_logits: ``[N, K]`` for the ``judged_frames``.
        landmarks: ``[N, P, 2]`` for the ``judged_frames``, shares of the crop's side; NaN where none were found.
        signals: signals of the face over time.
    """

    identity: Tensor | None = None
    emotion: str | None = None
    mouth_opening: np.ndarray | None = None
    sync_distances: np.ndarray | None = None
    emotion_logits: Tensor | None = None
    landmarks: np.ndarray | None = None
    signals: FaceSignals | None = None


@dataclass(frozen=True, eq=False)
class MetricInput:
    """Input of a metric: one row of one clip, together with the real clip.

    Attributes:
        frames: uint8 ``[T, H, W, 3]``: frames of the row.
        real: uint8 ``[T, H, W, 3]``: frames of the real clip.
        speech: float32 ``[T * 640]``: speech of the clip.
        mouth: box of the mouth region, ``(y0, y1, x0, x1)`` in pixels.
        judged: outputs of the judges for ``frames``.
        judged_real: outputs of the judges for ``real``.
        emotion: true emotion, or None if it is not known.
        mouth_opening: float32 ``[T]``: true opening of the mouth, or None if it is not known.
    """

    frames: np.ndarray
    real: np.ndarray
    speech: np.ndarray
    mouth: Box
    judged: JudgeOutputs
    judged_real: JudgeOutputs
    emotion: str | None = None
    mouth_opening: np.ndarray | None = None

    @cached_property
    def ssim(self) -> tuple[float, float]:
        """SSIM of the frames, and of their mouth region."""
        return image.ssim(self.frames, self.real, self.mouth)

    @cached_property
    def sharpness(self) -> tuple[float, float]:
        """Mean CPBD of the ``judged_frames``, and of their mouth region; NaN if there is no edge."""
        values = np.array([image.cpbd(frame, self.mouth) for frame in judged_frames(self.frames)])
        return _finite_mean(values[:, 0]), _finite_mean(values[:, 1])

    @cached_property
    def mouth_curve(self) -> np.ndarray | None:
        """Cross-correlation of the judged and the true opening of the mouth over lags, or None if either is missing."""
        if self.judged.mouth_opening is None or self.mouth_opening is None:
            return None
        return cross_correlation(self.judged.mouth_opening, self.mouth_opening)

    @cached_property
    def sync(self) -> SyncScore | None:
        """Score of the sync judge, or None if there is no sync judge."""
        return None if self.judged.sync_distances is None else sync_score(self.judged.sync_distances)


MetricFunction = Callable[[MetricInput], float | None]
"""Computes a metric of one row of one clip.

NaN: the metric does not apply to this clip. None: an input (such as a judge) is missing, so that it cannot be computed
for any clip of the corpus; results omit it.
"""


@dataclass(frozen=True)
class ClipMetric:
    """An entry of the table.

    Attributes:
        metric: description.
        compute: its function.
        in_summary: whether the table on the terminal shows it. The report shows every metric.
    """

    metric: Metric
    compute: MetricFunction
    in_summary: bool = True


def _movement_ratio(clip: MetricInput) -> float:
    return _relative(*(image.movement(frames, clip.mouth) for frames in (clip.frames, clip.real)))


def _identity_distance(clip: MetricInput) -> float | None:
    if clip.judged.identity is None or clip.judged_real.identity is None:
        return None
    return average_content_distance(clip.judged.identity, clip.judged_real.identity)


def _identity_cosine(clip: MetricInput) -> float | None:
    if clip.judged.identity is None or clip.judged_real.identity is None:
        return None
    return cosine_identity(clip.judged.identity, clip.judged_real.identity)


def _emotion(clip: MetricInput) -> float | None:
    if clip.judged.emotion is None:
        return None
    return float(clip.judged.emotion == clip.emotion) if clip.emotion else nan


def _mouth_correlation(clip: MetricInput) -> float | None:
    return None if clip.mouth_curve is None else float(clip.mouth_curve[len(clip.mouth_curve) // 2])


def _mouth_lag(clip: MetricInput) -> float | None:
    return None if clip.mouth_curve is None else _magnitude(peak(clip.mouth_curve))


def _aperture_correlation(clip: MetricInput) -> float | None:
    if clip.judged.signals is None or clip.judged_real.signals is None:
        return None
    return correlation(clip.judged.signals.aperture, clip.judged_real.signals.aperture)


def _landmark_distance(clip: MetricInput) -> float | None:
    if clip.judged.landmarks is None or clip.judged_real.landmarks is None:
        return None
    return landmark_distance(clip.judged.landmarks, clip.judged_real.landmarks)


def _blinks_per_minute(clip: MetricInput) -> float | None:
    if clip.judged.signals is None:
        return None
    return 60.0 * clip.judged.signals.fps * count_blinks(clip.judged.signals) / len(clip.frames)


def _head_motion(band: str) -> MetricFunction:
    def compute(clip: MetricInput) -> float | None:
        return None if clip.judged.signals is None else band_motion(clip.judged.signals)[band]

    return compute


def _relative(value: float, real: float) -> float:
    return value / real if real else nan


def _variance_ratio(clip: MetricInput) -> float:
    variances = (appearance.temporal_variance(frames, clip.mouth) for frames in (clip.frames, clip.real))
    return _relative(*variances)


def _mottle_ratio(clip: MetricInput) -> float:
    return _relative(*(appearance.mottle(judged_frames(frames)) for frames in (clip.frames, clip.real)))


def _magnitude(offset: int | None) -> float:
    return nan if offset is None else float(abs(offset))


def _finite_mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else nan


METRICS: dict[str, ClipMetric] = {
    "psnr": ClipMetric(PSNR, lambda clip: image.psnr(clip.frames, clip.real)),
    "psnr_mouth": ClipMetric(
        Metric("PSNR mouth", "higher", "dB", 2, "PSNR of the mouth region"),
        lambda clip: image.psnr(clip.frames, clip.real, clip.mouth),
        in_summary=False,
    ),
    "ssim": ClipMetric(SSIM, lambda clip: clip.ssim[0]),
    "ssim_mouth": ClipMetric(
        Metric("SSIM mouth", "higher", "", 3, "SSIM of the mouth region"), lambda clip: clip.ssim[1]
    ),
    "error_mouth": ClipMetric(
        Metric("L1 mouth", "lower", "levels", 2, "mean absolute error in the mouth region, grey levels of 255"),
        lambda clip: image.mean_error(clip.frames, clip.real, clip.mouth),
    ),
    "cpbd": ClipMetric(
        Metric("CPBD", "higher", "", 3, "share of edges on which no blur would be detected"),
        lambda clip: clip.sharpness[0],
    ),
    "cpbd_mouth": ClipMetric(
        Metric("CPBD mouth", "higher", "", 3, "CPBD of the edges in the mouth region"),
        lambda clip: clip.sharpness[1],
        in_summary=False,
    ),
    "movement_mouth": ClipMetric(
        Metric(
            "movement", "one", "", 2, "mean absolute frame difference in the mouth region, relative to the real clip's"
        ),
        _movement_ratio,
    ),
    "acd": ClipMetric(
        Metric(
            "ACD-C",
            "lower",
            "",
            3,
            "mean of 1 - cosine of a frame's identity (judge) to the real clip's mean identity",
        ),
        _identity_distance,
        in_summary=False,
    ),
    "csim": ClipMetric(CSIM, _identity_cosine),
    "emotion": ClipMetric(
        Metric("emotion", "higher", "", 3, "share of clips to which the emotion judge gives the true emotion"), _emotion
    ),
    "mouth_correlation": ClipMetric(
        Metric(
            "mouth corr",
            "higher",
            "",
            3,
            "correlation of the mouth's opening, as computed by the judge, with the true opening",
        ),
        _mouth_correlation,
    ),
    "mouth_lag": ClipMetric(
        Metric(
            "mouth |lag|", "lower", "frames", 2, "mean size of the lag at which that correlation peaks, within 5 frames"
        ),
        _mouth_lag,
        in_summary=False,
    ),
    "aperture_correlation": ClipMetric(
        Metric(
            "aperture corr",
            "higher",
            "",
            3,
            "correlation over time of the mouth's aperture with that of the real clip, measured in both pictures",
        ),
        _aperture_correlation,
    ),
    "landmark_distance": ClipMetric(
        Metric(
            "landmarks",
            "lower",
            "%",
            2,
            "mean distance of landmarks to the real frame's, % of the eyes' distance",
        ),
        _landmark_distance,
    ),
    "gmsd": ClipMetric(
        Metric("GMSD", "lower", "", 4, "gradient magnitude similarity deviation from the real frame (Xue et al. 2014)"),
        lambda clip: appearance.gradient_deviation(clip.frames, clip.real),
        in_summary=False,
    ),
    "mottle": ClipMetric(
        Metric("mottle", "one", "", 2, "deviation of the high-pass of flat areas, relative to the real clip's"),
        _mottle_ratio,
        in_summary=False,
    ),
    "variance": ClipMetric(
        Metric("variance", "one", "", 2, "variance over time outside the mouth region, relative to the real clip's"),
        _variance_ratio,
        in_summary=False,
    ),
    "blinks": ClipMetric(
        Metric("blinks", "real", "1/min", 1, "blinks per minute; to be compared with the row of real clips"),
        _blinks_per_minute,
        in_summary=False,
    ),
    **{
        f"head_{name}": ClipMetric(
            Metric(
                f"head {low:g}-{high:g} Hz",
                "real",
                "%",
                2,
                f"RMS motion of the head within the crop from {low:g} to {high:g} Hz, % of the distance of the eyes",
            ),
            _head_motion(name),
            in_summary=False,
        )
        for name, (low, high) in BANDS.items()
    },
    "sync_confidence": ClipMetric(
        Metric(
            "sync confidence",
            "higher",
            "",
            3,
            "sync judge: median - minimum of the distances over offsets within 15 frames; "
            "the scale is that of the corpus's own judge, not SyncNet's, and no LSE-C",
        ),
        lambda clip: None if clip.sync is None else clip.sync.confidence,
    ),
    "sync_distance": ClipMetric(
        Metric(
            "sync distance",
            "lower",
            "",
            3,
            "sync judge: minimum over these offsets of the mean distance of speech and frames; "
            "the scale is that of the corpus's own judge, not SyncNet's, and no LSE-D",
        ),
        lambda clip: None if clip.sync is None else clip.sync.distance,
    ),
    "sync_offset": ClipMetric(
        Metric("sync |offset|", "lower", "frames", 2, "mean size of the offset at which that minimum lies"),
        lambda clip: None if clip.sync is None else _magnitude(clip.sync.offset),
        in_summary=False,
    ),
}
"""Name -> metric, in the order of tables. The names are keys of ``results.json``."""


def register(name: str, metric: Metric, compute: MetricFunction, *, in_summary: bool = True) -> None:
    """Adds a metric to ``METRICS``, which evaluation and its report read.

    Args:
        name: key in ``results.json``.
        metric: description.
        compute: function of one row of one clip.
        in_summary: whether the table on the terminal shows it.

    Raises:
        ValueError: there is a metric of that name already.
    """
    if name in METRICS:
        raise ValueError(f"there is a metric {name!r} already: register {compute.__module__} under another name")
    METRICS[name] = ClipMetric(metric, compute, in_summary)
