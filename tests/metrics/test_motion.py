from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from s2v_ray.media.face import TEMPLATE
from s2v_ray.media.regions import mouth_box
from s2v_ray.metrics import motion
from s2v_ray.metrics.motion import FaceSignals

SIZE, FPS = 96, 25


def signals(opening: np.ndarray | None = None, position: np.ndarray | None = None) -> FaceSignals:
    return FaceSignals(
        np.zeros(1),
        np.ones(1) if opening is None else opening,
        np.zeros((1, 2)) if position is None else position,
        FPS,
    )


def draw(mouth: float, eyes: float, shift: float = 0.0) -> np.ndarray:
    """A face with a dark ellipse for the inside of the mouth, two for the irises, and brows that stay."""
    scale = 8  # drawn large, so that parts of a pixel count
    face = np.full((SIZE * scale, SIZE * scale, 3), 180, np.uint8)
    for (x, y), width, height in (
        (motion.EYES[0], 0.03, 0.03 * eyes),
        (motion.EYES[1], 0.03, 0.03 * eyes),
        ((0.36, 0.32), 0.07, 0.012),
        ((0.64, 0.32), 0.07, 0.012),
        ((0.5, 0.55), 0.02, 0.05),
        ((0.5, 0.745), 0.07, 0.05 * mouth),
    ):
        centre = (round((x + shift) * SIZE * scale), round(y * SIZE * scale))
        axes = (round(width * SIZE * scale), round(height * SIZE * scale))
        if axes[1]:
            cv2.ellipse(face, centre, axes, 0, 0, 360, (30, 30, 30), -1)
    return cv2.resize(face, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def test_constants_are_those_of_the_template() -> None:
    np.testing.assert_allclose(motion.EYES, TEMPLATE[:2])
    assert pytest.approx(TEMPLATE[1, 0] - TEMPLATE[0, 0]) == motion.EYE_DISTANCE


def test_aperture_follows_the_mouth_and_not_the_eyes() -> None:
    mouths = 0.5 + 0.5 * np.sin(np.arange(20))
    eyes = np.where(np.arange(20) % 7 == 3, 0.0, 1.0)
    frames = np.stack([draw(m, e) for m, e in zip(mouths, eyes, strict=True)])
    found = motion.signals_of_frames(frames, mouth_box(SIZE), FPS)
    assert np.corrcoef(found.aperture, mouths)[0, 1] > 0.95
    assert np.corrcoef(found.eye_opening, eyes)[0, 1] > 0.95
    assert (found.eye_opening[eyes == 0] < 0.2 * np.median(found.eye_opening)).all()


def test_position_is_the_shift_in_percent_of_the_eyes_distance() -> None:
    shifts = np.array([0.0, 0.01, 0.02, -0.015])
    frames = np.stack([draw(0.5, 1.0, shift) for shift in shifts])
    found = motion.signals_of_frames(frames, mouth_box(SIZE), FPS).position
    np.testing.assert_allclose(found[:, 0], 100 * shifts / motion.EYE_DISTANCE, atol=0.6)
    np.testing.assert_allclose(found[:, 1], 0.0, atol=0.3)


def test_signals_of_landmarks_by_hand() -> None:
    points = np.zeros((3, 5, 2))
    points[:, 1, 1] = [0.02, 0.01, 0.0]  # lower lid
    points[:, 3, 1] = [0.0, 0.1, 0.2]  # lower lip
    points[:, 4, 0] = [0.0, 0.028, 0.0]
    before = signals()
    found = motion.with_landmarks(before, points, ((0, 1),), ((2, 3),))
    np.testing.assert_allclose(found.eye_opening, [0.02, 0.01, 0.0])
    np.testing.assert_allclose(found.aperture, [0.0, 0.1, 0.2])
    # Points 0, 1 and 4 do not belong to the lips.
    np.testing.assert_allclose(found.position[:, 0], [0.0, 10.0 / 3, 0.0])
    assert (found.closed, before.closed) == (motion.CLOSED_LIDS, motion.CLOSED_IRIS)
    without_lids = motion.with_landmarks(before, points, (), ((2, 3),))
    assert without_lids.eye_opening is before.eye_opening and without_lids.closed == motion.CLOSED_IRIS
    np.testing.assert_allclose(without_lids.aperture, [0.0, 0.1, 0.2])


@pytest.mark.parametrize(("frames", "blinks"), [(1, 0), (2, 1), (5, 1), (15, 1), (16, 0)])
def test_a_blink_lasts_from_80_to_600_ms(frames: int, blinks: int) -> None:
    opening = np.ones(60)
    opening[20 : 20 + frames] = 0.4
    assert motion.count_blinks(signals(opening)) == blinks


def test_blinks_are_counted_at_the_ends_and_by_the_clips_own_median() -> None:
    opening = np.full(60, 3.0)
    opening[:3] = opening[30:34] = opening[57:] = 1.4
    assert motion.count_blinks(signals(opening)) == 3
    half_open = np.where(opening < 3, 1.6, 3.0)
    assert motion.count_blinks(signals(half_open)) == 0, "53% of the median is open"
    assert motion.count_blinks(replace(signals(half_open), closed=0.7)) == 3
    assert motion.count_blinks(signals(np.zeros(60))) == 0


def test_a_sine_is_in_its_band_and_bands_add_up_to_the_variance() -> None:
    t = np.arange(100) / FPS
    position = np.stack([2 * np.sin(2 * np.pi * 0.5 * t), 3 * np.sin(2 * np.pi * 5.0 * t)], axis=1) + 40.0
    found = motion.band_motion(signals(position=position))
    assert found["slow"] == pytest.approx(2 / 2**0.5)
    assert found["middle"] == pytest.approx(0.0, abs=1e-9)
    assert found["fast"] == pytest.approx(3 / 2**0.5)
    walk = np.random.default_rng(0).normal(size=(74, 2)).cumsum(axis=0)
    power = sum(value**2 for value in motion.band_motion(signals(position=walk)).values())
    assert power == pytest.approx(walk.var(axis=0).sum())
    still = motion.band_motion(signals(position=np.ones((50, 2))))
    assert still == {"slow": 0.0, "middle": 0.0, "fast": 0.0}


def test_landmark_distance_by_hand() -> None:
    real = np.zeros((3, 5, 2))
    points = real.copy()
    points[0, :, 0] = 0.028  # 10% of the distance of the eyes
    points[1] = np.nan
    assert motion.landmark_distance(points, real) == pytest.approx(5.0)
    assert np.isnan(motion.landmark_distance(np.full((2, 5, 2), np.nan), real[:2]))
