from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve

from s2v_ray.metrics import appearance

RANDOM = np.random.default_rng(0)
BOX = (4, 8, 4, 8)


def noise(*shape: int, deviation: float = 5.0) -> np.ndarray:
    grey = RANDOM.normal(128.0, deviation, (*shape, 1)).clip(0, 255).round().astype(np.uint8)
    return np.repeat(grey, 3, axis=-1)


def test_equal_frames_have_no_gradient_deviation() -> None:
    frames = noise(2, 32, 32)
    assert appearance.gradient_deviation(frames, frames) == 0.0
    with pytest.raises(ValueError, match="the same shape"):
        appearance.gradient_deviation(frames, frames[:1])


def test_gradient_deviation_by_the_formula() -> None:
    """As the authors' Matlab code: 2 x 2 mean, every second pixel, Prewitt / 3, c = 170, deviation of the map."""
    frames, real = noise(1, 24, 24, deviation=40.0), noise(1, 24, 24, deviation=40.0)
    gradients = []
    for shown in (frames, real):
        luma = shown[0, ..., 0].astype(np.float64)
        small = (luma[::2, ::2] + luma[1::2, ::2] + luma[::2, 1::2] + luma[1::2, 1::2]) / 4
        kernel = np.array([[1, 0, -1]] * 3) / 3
        x, y = (convolve(small, k, mode="nearest") for k in (kernel, kernel.T))
        gradients.append(np.sqrt(x**2 + y**2))
    a, b = gradients
    expected = ((2 * a * b + 170) / (a**2 + b**2 + 170)).std()
    assert appearance.gradient_deviation(frames, real) == pytest.approx(expected, rel=1e-5)


def test_gradient_deviation_rises_with_blur() -> None:
    real = noise(1, 32, 32, deviation=40.0)
    flat = np.full_like(real, 128)
    half = real.copy()
    half[:, :, 16:] = 128
    assert appearance.gradient_deviation(half, real) > 0.0
    assert appearance.gradient_deviation(half, real) > appearance.gradient_deviation(real, real)
    assert appearance.gradient_deviation(flat, real) > 0.05


def test_mottle_is_the_deviation_of_flat_areas() -> None:
    smooth = np.full((1, 64, 64, 3), 120, np.uint8)
    assert appearance.mottle(smooth) == 0.0
    # The high-pass of white noise of deviation s has deviation s sqrt(8 / 9).
    assert appearance.mottle(noise(1, 64, 64)) == pytest.approx(5.0 * (8 / 9) ** 0.5, rel=0.15)
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (1, 64, 3))[None]
    assert appearance.mottle(ramp) < 0.7, "a slope is no mottle"


def test_mottle_ignores_textured_areas() -> None:
    frame = np.full((1, 64, 64, 3), 120, np.uint8)
    frame[:, :32] = RANDOM.integers(0, 256, (32, 64, 1))
    assert appearance.mottle(frame) < 1.0


def test_temporal_variance_is_that_outside_the_mouth() -> None:
    frames = np.full((4, 16, 16, 3), 100, np.uint8)
    frames[::2, 4:8, 4:8] = 200  # the mouth
    assert appearance.temporal_variance(frames, BOX) == 0.0
    frames[::2, 0] = 110  # one row of 16: variance 25 in 16 of 240 pixels
    assert appearance.temporal_variance(frames, BOX) == pytest.approx(25 * 16 / 240)


def test_variance_between_takes_by_hand() -> None:
    takes = [np.full((3, 16, 16, 3), level, np.uint8) for level in (100, 104, 108)]
    assert appearance.take_variance(takes, BOX) == pytest.approx(16.0)
    takes[0][1] += 9  # 100, 109, 100: the mean image counts
    assert appearance.take_variance(takes, BOX) == pytest.approx(np.var([103, 104, 108], ddof=1))
    takes[1][:, 4:8, 4:8] = 0
    assert appearance.take_variance(takes, BOX) == pytest.approx(np.var([103, 104, 108], ddof=1))
    with pytest.raises(ValueError, match="two of them, not 1"):
        appearance.take_variance(takes[:1], BOX)
