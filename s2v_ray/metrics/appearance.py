"""Appearance: gradient similarity, mottle of flat areas, and variance within a clip and between takes.

Frames are uint8 ``[T, H, W, 3]`` RGB; a box is ``(y0, y1, x0, x1)`` in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from s2v_ray.metrics.image import Box

GMSD_C = 170.0
"""Constant of the gradient similarity for luma in 0..255 (Xue et al. 2014)."""
FLAT_SHARE, FLAT_SIGMA = 0.25, 2.0
"""Share of the pixels that count as flat, and the standard deviation of the smoothing that decides, in pixels."""
RIM = 2
"""Pixels at the border of a frame that do not count for mottle, as their 3 x 3 mean is incomplete."""


def luma_of(frames: np.ndarray) -> np.ndarray:
    """Luma of uint8 frames ``[T, H, W, 3]`` (BT.601), float32 ``[T, H, W]``."""
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(np.float32)


def gradient_deviation(frames: np.ndarray, real: np.ndarray) -> float:
    """GMSD (Xue et al. 2014): deviation of the gradient magnitude similarity, mean over frames; 0 if equal.

    A full-reference measure of perceived quality without weights: luma is averaged over 2 x 2 pixels, gradients are
    Prewitt's, the similarity is ``(2 a b + c) / (a^2 + b^2 + c)`` with c = 170, and its standard deviation over the
    frame is taken.

    Raises:
        ValueError: the shapes differ.
    """
    if frames.shape != real.shape:
        raise ValueError(f"frames {frames.shape} and real frames {real.shape} must have the same shape")
    deviations = []
    for a, b in zip(luma_of(frames), luma_of(real), strict=True):
        x, y = _gradient(a), _gradient(b)
        deviations.append(((2 * x * y + GMSD_C) / (x * x + y * y + GMSD_C)).std())
    return float(np.mean(deviations))


def _gradient(luma: np.ndarray) -> np.ndarray:
    """Magnitude of the Prewitt gradient of luma ``[H, W]``, after averaging over 2 x 2 pixels."""
    height, width = luma.shape[0] // 2, luma.shape[1] // 2
    small = luma[: 2 * height, : 2 * width].reshape(height, 2, width, 2).mean(axis=(1, 3))
    kernel = np.array([[1, 0, -1]] * 3, np.float32) / 3
    x, y = (cv2.filter2D(small, cv2.CV_32F, k, borderType=cv2.BORDER_REPLICATE) for k in (kernel, kernel.T))
    magnitude: np.ndarray = np.sqrt(x * x + y * y)
    return magnitude


def mottle(frames: np.ndarray) -> float:
    """Standard deviation of the high-pass of flat areas, in grey levels, mean over frames.

    The high-pass is luma minus its 3 x 3 mean. Flat are the ``FLAT_SHARE`` pixels of a frame whose gradient is smallest
    after smoothing by ``FLAT_SIGMA`` pixels, which removes the mottle itself, so that mottle does not decide what is
    flat.
    """
    deviations = []
    for luma in luma_of(frames):
        smooth = cv2.GaussianBlur(luma, (0, 0), FLAT_SIGMA)
        gradient_y, gradient_x = np.gradient(smooth)
        slope = np.hypot(gradient_x, gradient_y)[RIM:-RIM, RIM:-RIM]
        flat = slope <= np.quantile(slope, FLAT_SHARE)
        deviations.append((luma - cv2.blur(luma, (3, 3)))[RIM:-RIM, RIM:-RIM][flat].std())
    return float(np.mean(deviations))


def temporal_variance(frames: np.ndarray, mouth: Box) -> float:
    """Variance over time outside the mouth box, mean over pixels and channels, in grey levels squared."""
    return float(_outside(frames.var(axis=0, dtype=np.float64), mouth).mean())


def take_variance(takes: Sequence[np.ndarray], mouth: Box) -> float:
    """Unbiased variance between the mean images of takes outside the mouth box, mean over pixels and channels.

    Raises:
        ValueError: there are fewer than two takes.
    """
    if len(takes) < 2:
        raise ValueError(f"a variance between takes needs two of them, not {len(takes)}")
    means = np.stack([take.mean(axis=0, dtype=np.float64) for take in takes])
    return float(_outside(means.var(axis=0, ddof=1), mouth).mean())


def _outside(image: np.ndarray, box: Box) -> np.ndarray:
    """The values of ``[H, W, C]`` outside the box, ``[n, C]``."""
    y0, y1, x0, x1 = box
    keep = np.ones(image.shape[:2], bool)
    keep[y0:y1, x0:x1] = False
    values: np.ndarray = image[keep]
    return values
