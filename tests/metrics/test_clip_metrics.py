"""The table of evaluation metrics on clips whose values are known, and its extension from outside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import torch

from s2v_ray.metrics import Metric
from s2v_ray.metrics.clip_metrics import (
    JUDGED_FRAMES,
    METRICS,
    ClipMetric,
    JudgeOutputs,
    MetricInput,
    judged_frames,
    register,
)
from s2v_ray.metrics.motion import FaceSignals
from tests.metrics.test_image import bars

BOX = (20, 28, 8, 24)
RANDOM = np.random.default_rng(0)
REAL = RANDOM.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)
OPENING = RANDOM.random(20).astype(np.float32)
SIGNALS = FaceSignals(OPENING, np.where(np.arange(20) % 10 < 3, 0.1, 1.0), RANDOM.random((20, 2)), 25)
JUDGED = JudgeOutputs(
    torch.eye(4)[:JUDGED_FRAMES],
    "happy",
    OPENING,
    np.array([1.2, 1.0, 0.7, 1.1, np.nan]),
    landmarks=RANDOM.random((JUDGED_FRAMES, 5, 2)),
    signals=SIGNALS,
)
EQUAL = MetricInput(REAL, REAL, np.zeros(20 * 640, np.float32), BOX, JUDGED, JUDGED, "happy", OPENING)


def value(name: str, clip: MetricInput) -> float | None:
    return METRICS[name].compute(clip)


def test_every_metric_has_a_direction_and_a_description() -> None:
    assert {entry.metric.arrow for entry in METRICS.values()} == {"↑", "↓", "→1", "→real"}
    assert all(entry.metric.name and entry.metric.about for entry in METRICS.values())


def test_equal_clips_have_the_best_values() -> None:
    best = {
        "psnr": float("inf"),
        "psnr_mouth": float("inf"),
        "ssim": 1.0,
        "ssim_mouth": 1.0,
        "error_mouth": 0.0,
        "movement_mouth": 1.0,
        "csim": 1.0,
        "emotion": 1.0,
        "mouth_correlation": 1.0,
        "mouth_lag": 0.0,
        "sync_confidence": 1.05 - 0.7,
        "sync_distance": 0.7,
        "aperture_correlation": 1.0,
        "landmark_distance": 0.0,
        "gmsd": 0.0,
        "mottle": 1.0,
        "variance": 1.0,
        "blinks": 60 * 2 / 0.8,
        "sync_offset": 0.0,
    }
    for name, expected in best.items():
        assert value(name, EQUAL) == pytest.approx(expected), name


def test_whole_frame_and_mouth_are_measured_apart() -> None:
    frames = REAL.copy()
    frames[:, :4] = 0  # outside the mouth region, further away than the window of SSIM reaches
    clip = replace(EQUAL, frames=frames)
    assert value("ssim", clip) < 0.95
    assert value("ssim_mouth", clip) == pytest.approx(1.0, abs=1e-6)
    assert value("psnr", clip) < 30
    assert value("psnr_mouth", clip) == float("inf")
    assert value("error_mouth", clip) == 0.0


def test_sharpness_falls_with_blur() -> None:
    def clip(frame: np.ndarray) -> MetricInput:
        return replace(EQUAL, frames=np.stack([frame] * 3), mouth=(0, 64, 64, 128))

    half_blurred = np.hstack([bars(2), bars(8)])
    assert value("cpbd", clip(np.hstack([bars(2), bars(2)]))) == 1.0
    assert 0.0 < value("cpbd", clip(half_blurred)) < 1.0
    assert value("cpbd_mouth", clip(half_blurred)) == 0.0
    assert isnan(value("cpbd", clip(np.full((64, 128), 128, np.uint8)))), "no edge"


def test_metrics_without_their_judge_are_none() -> None:
    clip = replace(EQUAL, judged=JudgeOutputs(), judged_real=JudgeOutputs())
    names = ["acd", "csim", "emotion", "mouth_correlation", "mouth_lag", "aperture_correlation", "landmark_distance"]
    names += ["blinks", "head_slow", "head_middle", "head_fast", "sync_confidence", "sync_distance", "sync_offset"]
    assert [name for name in METRICS if value(name, clip) is None] == names


def test_metrics_that_do_not_apply_to_a_clip_are_nan() -> None:
    assert isnan(value("emotion", replace(EQUAL, emotion=None)))
    still = np.repeat(REAL[:1], 20, axis=0)
    assert isnan(value("movement_mouth", replace(EQUAL, real=still)))
    assert isnan(value("variance", replace(EQUAL, real=still)))
    assert value("variance", replace(EQUAL, frames=still)) == 0.0
    constant = replace(EQUAL, judged=replace(JUDGED, mouth_opening=np.full(20, 0.3, np.float32)))
    assert isnan(value("mouth_lag", constant))
    assert value("mouth_correlation", constant) == 0.0


def test_the_wrong_emotion_counts_as_zero() -> None:
    assert value("emotion", replace(EQUAL, emotion="sad")) == 0.0


def test_signals_of_the_row_are_compared_with_the_real_clip() -> None:
    other = replace(SIGNALS, aperture=-OPENING, eye_opening=np.ones(20), position=np.ones((20, 2)))
    clip = replace(EQUAL, judged=replace(JUDGED, signals=other, landmarks=JUDGED.landmarks + 0.028))
    assert value("aperture_correlation", clip) == pytest.approx(-1.0)
    assert value("blinks", clip) == 0.0
    assert value("head_fast", clip) == 0.0 < value("head_fast", EQUAL)
    assert value("landmark_distance", clip) == pytest.approx(10.0 * 2**0.5)


def test_judged_frames_are_evenly_spaced() -> None:
    frames = np.arange(45)
    chosen = judged_frames(frames)
    assert len(chosen) == JUDGED_FRAMES
    assert (chosen[0], chosen[-1]) == (0, 44)
    assert set(np.diff(chosen)) == {4}
    assert judged_frames(frames[:5]).tolist() == [0, 1, 2, 3, 4]


@pytest.fixture
def table() -> Iterator[dict[str, ClipMetric]]:
    """The table, restored afterwards."""
    before = dict(METRICS)
    yield METRICS
    METRICS.clear()
    METRICS.update(before)


def test_a_metric_can_be_registered(table: dict[str, ClipMetric]) -> None:
    metric = Metric("brightness", "higher", "levels", 1, "mean grey level")
    register("brightness", metric, lambda clip: float(clip.frames.mean()), in_summary=False)
    assert list(table)[-1] == "brightness"
    assert table["brightness"].metric is metric and not table["brightness"].in_summary
    assert value("brightness", EQUAL) == pytest.approx(float(REAL.mean()))


def test_a_name_is_registered_once(table: dict[str, ClipMetric]) -> None:
    with pytest.raises(ValueError, match="there is a metric 'psnr' already"):
        register("psnr", METRICS["psnr"].metric, lambda clip: 0.0)
