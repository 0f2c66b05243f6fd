from __future__ import annotations

import cv2
import numpy as np
import pytest
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from s2v_ray.metrics import image

BOX = (20, 28, 8, 24)


@pytest.fixture
def frames() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack(
        [cv2.GaussianBlur(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), (0, 0), 1.5) for _ in range(4)]
    )


def shifted(frames: np.ndarray, by: int) -> np.ndarray:
    return (frames.astype(int) + by).clip(0, 255).astype(np.uint8)


def test_psnr_by_hand() -> None:
    real = np.full((3, 8, 8, 3), 100, np.uint8)
    assert image.psnr(real + 10, real) == pytest.approx(20 * np.log10(25.5))
    assert image.psnr(real, real) == float("inf")


def test_psnr_and_ssim_equal_torchmetrics(frames: np.ndarray) -> None:
    import torch

    other = shifted(frames, 7)
    other[:, 4:20] = shifted(other[:, 4:20], -31)
    a, b = (torch.from_numpy(f).movedim(-1, 1).float() / 255 for f in (other, frames))
    assert image.psnr(other, frames) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0).item(), abs=1e-4)
    whole, _ = image.ssim(other, frames, BOX)
    assert whole == pytest.approx(
        structural_similarity_index_measure(a, b, data_range=1.0).item(), abs=1e-5
    )  # torchmetrics computes in float32


def test_ssim_of_a_box_ignores_the_rest(frames: np.ndarray) -> None:
    far = frames.copy()
    far[:, :6] = 0  # further from the box than the window reaches
    whole, inside = image.ssim(far, frames, BOX)
    assert whole < 0.95
    assert inside == pytest.approx(1.0, abs=1e-6)
    assert image.ssim(frames, frames) == pytest.approx((1.0, 1.0))


def test_box_metrics_ignore_the_rest(frames: np.ndarray) -> None:
    other = frames.copy()
    other[:, :20] = 0
    assert image.mean_error(other, frames, BOX) == 0
    assert image.mean_error(other, frames) > 10
    assert image.psnr(other, frames, BOX) == float("inf")


def test_mean_error_by_hand() -> None:
    real = np.zeros((2, 4, 4, 3), np.uint8)
    made = real.copy()
    made[0] = 8
    assert image.mean_error(made, real) == 4.0


def test_movement_by_hand(frames: np.ndarray) -> None:
    blink = np.zeros((5, 4, 4, 3), np.uint8)
    blink[1::2] = 200  # unsigned differences would wrap here
    assert image.movement(blink) == 200.0
    assert image.movement(np.repeat(frames[:1], 5, axis=0)) == 0.0
    assert image.movement(frames[:1]) == 0.0


def test_shapes_must_match(frames: np.ndarray) -> None:
    for metric in (image.psnr, image.ssim, image.mean_error):
        with pytest.raises(ValueError, match="same shape"):
            metric(frames[:2], frames)


def bars(ramp: int, high: int = 255) -> np.ndarray:
    """A vertical bar whose edges rise and fall over ``ramp`` pixels, steepest at one of them."""
    x = np.arange(64)
    rise, fall = (np.clip((x - at) / ramp, 0, 1) ** 1.3 for at in (10, 40))
    row = high * (np.sin(rise * np.pi / 2) ** 2 - np.sin(fall * np.pi / 2) ** 2)
    return np.tile(row.round().astype(np.uint8), (64, 1))


@pytest.mark.parametrize(
    ("ramp", "high", "sharp"),
    [(2, 255, 1.0), (3, 255, 1.0), (4, 255, 0.0), (8, 255, 0.0), (4, 50, 1.0), (5, 50, 1.0), (6, 50, 0.0)],
)
def test_cpbd_of_edges_of_known_width(ramp: int, high: int, sharp: float) -> None:
    """An edge wider than 3 pixels, or 5 in a block of low contrast, is blurred (Narvekar and Karam 2011)."""
    assert image.cpbd(bars(ramp, high))[0] == sharp


def test_cpbd_falls_with_blur() -> None:
    rng = np.random.default_rng(1)
    picture = cv2.resize(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), (128, 128), interpolation=cv2.INTER_CUBIC)
    values = [image.cpbd(picture)[0]] + [
        image.cpbd(cv2.GaussianBlur(picture, (0, 0), sigma))[0] for sigma in (0.6, 1.0, 1.5, 2.5)
    ]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert 0 <= values[-1] < 0.05
    assert 0.4 < values[0] <= 1


def test_cpbd_of_a_box_and_of_nothing() -> None:
    picture = np.hstack([bars(2), bars(8)])
    whole, blurred = image.cpbd(picture, (0, 64, 64, 128))
    assert blurred == 0.0
    assert whole > 0.0
    assert np.isnan(image.cpbd(np.full((64, 64, 3), 128, np.uint8))[0])
