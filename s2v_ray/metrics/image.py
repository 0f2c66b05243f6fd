"""Image metrics: PSNR, SSIM, sharpness (CPBD), error and movement, of whole frames or of one box in them.

Frames are uint8 ``[T, H, W, 3]`` RGB; a box is ``(y0, y1, x0, x1)`` in pixels, None for the whole frame.
"""

from __future__ import annotations

import cv2
import numpy as np

Box = tuple[int, int, int, int]

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
SSIM_C1, SSIM_C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
BLOCK = 64
"""Side of CPBD's blocks, in pixels. A smaller frame is one block."""
EDGE_SHARE = 0.002
"""Blocks with no larger share of edge pixels are not used (Narvekar and Karam 2011)."""
JUST_NOTICEABLE_LOW, JUST_NOTICEABLE_HIGH = 5, 3
"""Edge width that is just noticeable as blur, in pixels, for blocks of low and of high contrast."""
LOW_CONTRAST = 50
"""Largest range of grey levels in a block of low contrast."""


def crop(frames: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of frames ``[T, H, W, ...]`` inside the box."""
    if box is None:
        return frames
    y0, y1, x0, x1 = box
    return frames[:, y0:y1, x0:x1]


def psnr(frames: np.ndarray, real: np.ndarray, box: Box | None = None) -> float:
    """Peak signal to noise ratio in dB: ``10 log10(255^2 / MSE)``, MSE over all pixels of the clip; inf if equal.

    The error is pooled over the clip, because a mean of PSNR over frames is infinite as soon as one frame is exact.

    Raises:
        ValueError: the shapes differ.
    """
    error = float(np.square(_difference(frames, real, box)).mean())
    return 10.0 * float(np.log10(255.0**2 / error)) if error else float("inf")


def mean_error(frames: np.ndarray, real: np.ndarray, box: Box | None = None) -> float:
    """Mean absolute error in grey levels, 0..255.

    Raises:
        ValueError: the shapes differ.
    """
    return float(np.abs(_difference(frames, real, box)).mean())


def ssim(frames: np.ndarray, real: np.ndarray, box: Box | None = None) -> tuple[float, float]:
    """Structural similarity (Wang et al. 2004; Gaussian window of 11 pixels, sigma 1.5), mean over frames, in [-1, 1].

    Equal to torchmetrics and kornia, whose convolutions take several times as long on small frames and are less precise
    in flat regions.

    Returns:
        Similarity of the whole frame, and of the box: the mean of the same similarity map over the box. Both are equal
        without a box.

    Raises:
        ValueError: the shapes differ.
    """
    _check(frames, real)
    similarity = np.stack(
        [_similarity(a, b) for a, b in zip(frames.astype(np.float64), real.astype(np.float64), strict=True)]
    )
    whole = float(similarity.mean())
    return whole, whole if box is None else float(crop(similarity, box).mean())


def _similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Map of the structural similarity of two float64 frames ``[H, W, 3]``."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(x, (SSIM_WINDOW, SSIM_WINDOW), SSIM_SIGMA, borderType=cv2.BORDER_REFLECT_101)

    mean_a, mean_b = mean(a), mean(b)
    variances = mean(a * a) - mean_a**2 + mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    similarity: np.ndarray = (
        (2 * mean_a * mean_b + SSIM_C1)
        * (2 * covariance + SSIM_C2)
        / ((mean_a**2 + mean_b**2 + SSIM_C1) * (variances + SSIM_C2))
    )
    return similarity


def movement(frames: np.ndarray, box: Box | None = None) -> float:
    """Mean absolute difference between consecutive frames, in grey levels; 0 for a still frame."""
    part = crop(frames, box).astype(np.int16)
    return float(np.abs(np.diff(part, axis=0)).mean()) if len(part) > 1 else 0.0


def cpbd(frame: np.ndarray, box: Box | None = None) -> tuple[float, float]:
    """Sharpness by the cumulative probability of blur detection (Narvekar and Karam 2011), in [0, 1]; 1 is sharp.

    The width ``w`` of an edge, in pixels, reaches from the luminance's local minimum to its local maximum along the row
    (Marziliano et al. 2002). Blur is detected there with probability ``1 - exp(-(w / w_jnb)^3.6)``, w_jnb = 5 in blocks
    of low contrast and 3 elsewhere, and counts as noticed above 1 - 1/e = 0.63, which means ``w > w_jnb``. The result
    is the share of edges whose blur is not noticed. Edges are found as in the `cpbd` package, which published figures
    use.

    Args:
        frame: uint8 ``[H, W, 3]`` RGB, or luminance ``[H, W]``.
        box: edges are found in the whole frame, and counted in the frame and in the box.

    Returns:
        Sharpness of the whole frame, and of the box; both are equal without a box. NaN if there is no edge.
    """
    luma = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame).astype(np.float64)
    edges, widths = _vertical_edges(luma), _edge_widths(luma)
    whole = _unnoticed(luma, edges, widths, (0, luma.shape[0], 0, luma.shape[1]))
    return whole, whole if box is None else _unnoticed(luma, edges, widths, box)


def _unnoticed(luma: np.ndarray, edges: np.ndarray, widths: np.ndarray, box: Box) -> float:
    """Share of the edges in the box whose blur is not noticed."""
    y0, y1, x0, x1 = box
    sharp: list[np.ndarray] = []
    for y in range(y0, y1, BLOCK):
        for x in range(x0, x1, BLOCK):
            block = np.s_[y : min(y + BLOCK, y1), x : min(x + BLOCK, x1)]
            if edges[block].mean() > EDGE_SHARE:
                noticed = JUST_NOTICEABLE_LOW if np.ptp(luma[block]) <= LOW_CONTRAST else JUST_NOTICEABLE_HIGH
                found = widths[block][edges[block]]
                sharp.append(found[found > 0] <= noticed)
    unnoticed = np.concatenate(sharp) if sharp else np.empty(0)
    return float(unnoticed.mean()) if len(unnoticed) else float("nan")


def _vertical_edges(luma: np.ndarray) -> np.ndarray:
    """Strong horizontal Sobel responses that are maximal along the row or the column: bool ``[H, W]``."""
    strength = np.square(cv2.Sobel(luma, cv2.CV_64F, 1, 0, borderType=cv2.BORDER_REFLECT) / 8.0)
    # The squared strength is compared with a root, as in Octave's edge() and in the cpbd package.
    strength[strength <= 2.0 * np.sqrt(strength.mean())] = 0.0
    inner = strength[1:-1, 1:-1]
    along_row = (inner > strength[1:-1, :-2]) & (inner > strength[1:-1, 2:])
    along_column = (inner > strength[:-2, 1:-1]) & (inner > strength[2:, 1:-1])
    return np.pad(along_row | along_column, 1)


def _edge_widths(luma: np.ndarray) -> np.ndarray:
    """``[H, W]``: width of the monotonic slope at each pixel, along the row; 0 where the gradient is not horizontal."""
    gradient_y, gradient_x = np.gradient(luma)
    horizontal = np.abs(gradient_x) > np.abs(gradient_y) * np.tan(np.deg2rad(67.5))
    rising, falling = _slope_widths(luma), _slope_widths(-luma)
    return np.where(horizontal, np.where(gradient_x > 0, rising, falling), 0)


def _slope_widths(luma: np.ndarray) -> np.ndarray:
    """``[H, W]``: length of the strictly rising slope at each pixel, at least one step on either side."""
    rises = np.diff(luma, axis=1) > 0
    before, after = _run_lengths(rises), _run_lengths(rises[:, ::-1])[:, ::-1]
    widths = np.zeros(luma.shape, int)
    widths[:, 1:-1] = 2 + before[:, :-2] + after[:, 2:]
    return widths


def _run_lengths(rises: np.ndarray) -> np.ndarray:
    """Length of the run of true values before each position: bool ``[H, W - 1]`` -> int ``[H, W]``."""
    places = np.arange(1, rises.shape[1] + 1)
    last_stop = np.maximum.accumulate(np.where(rises, 0, places), axis=1)
    return np.pad(places - last_stop, ((0, 0), (1, 0)))


def _difference(frames: np.ndarray, real: np.ndarray, box: Box | None) -> np.ndarray:
    _check(frames, real)
    return crop(frames, box).astype(np.float32) - crop(real, box).astype(np.float32)


def _check(frames: np.ndarray, real: np.ndarray) -> None:
    if frames.shape != real.shape:
        raise ValueError(f"frames {frames.shape} and real frames {real.shape} must have the same shape")
