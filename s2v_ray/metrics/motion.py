"""Motion of a face: aperture of the mouth, blinks, and the spectrum of the head's motion.

The signals come from the landmarks of a network that has eyelids and lips, or from the brightness of an aligned crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from s2v_ray.metrics.appearance import luma_of
from s2v_ray.metrics.image import Box

EYE_DISTANCE = 0.28
"""Distance of the eyes in an aligned crop, share of its side (``media.face.TEMPLATE``)."""
EYES = ((0.36, 0.42), (0.64, 0.42))
"""Centres of the eyes in an aligned crop, shares of its side."""
EYE_HALF_WIDTH, EYE_HALF_HEIGHT = 0.07, 0.045
"""Half the size of the box around an eye in which the iris is looked for, shares of the side."""
HEAD_ROWS = (0.15, 0.58)
"""Rows of the crop whose shift is the head's motion: brows, eyes and nose, without the mouth."""
DARK_SHARE = 0.2
"""Share of the darkest pixels around an eye that count as iris and lashes."""
BLINK_DEPTH = 0.7
"""An eye is closed while its opening is below this share of the clip's median opening."""
BLINK_SECONDS = (0.08, 0.6)
"""Shortest and longest blink. Longer is a closed eye, and a single frame at 25 fps is noise."""
BANDS = {"slow": (0.0, 1.0), "middle": (1.0, 3.0), "fast": (3.0, 12.5)}
"""Bands of the head's motion in Hz: sway, nods, and jitter. The lower end does not belong to a band."""


@dataclass(frozen=True, eq=False)
class FaceSignals:
    """Signals of one clip over time.

    Attributes:
        aperture: ``[T]``: aperture of the mouth, in any unit.
        eye_opening: ``[T]``: mean opening of the eyes, in any unit, 0 if nothing of the eye is visible.
        position: ``[T, 2]``: position of the head, x and y in percent of the distance of the eyes.
        fps: frames per second.
    """

    aperture: np.ndarray
    eye_opening: np.ndarray
    position: np.ndarray
    fps: float


def signals_of_landmarks(
    points: np.ndarray, eyelids: Sequence[tuple[int, int]], lips: Sequence[tuple[int, int]], fps: float
) -> FaceSignals:
    """Signals from landmarks: mean distances of pairs of points, and the mean of the points that are not lips.

    Args:
        points: ``[T, P, 2]``, shares of the crop's side.
        eyelids: indices of upper and lower lid, pair by pair.
        lips: indices of upper and lower inner lip, pair by pair.
        fps: frames per second.
    """

    def opening(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        upper, lower = (points[:, [pair[i] for pair in pairs]] for i in (0, 1))
        distance: np.ndarray = np.linalg.norm(upper - lower, axis=2).mean(axis=1)
        return distance

    fixed = np.setdiff1d(np.arange(points.shape[1]), np.array(lips).ravel())
    return FaceSignals(opening(lips), opening(eyelids), 100.0 / EYE_DISTANCE * points[:, fixed].mean(axis=1), fps)


def signals_of_frames(frames: np.ndarray, mouth: Box, fps: float) -> FaceSignals:
    """Signals from the brightness of aligned crops, uint8 ``[T, S, S, 3]``.

    Aperture: how much darker the middle of the mouth box is than the median of the whole box, mean over the pixels that
    are darker; an open mouth is dark inside. Opening of the eyes: median luma around an eye minus that of its darkest
    pixels; a closed eye hides the iris. Position: shift of the upper face against the clip's first frame by phase
    correlation (Foroosh et al. 2002).
    """
    luma = luma_of(frames)
    y0, y1, x0, x1 = mouth
    height, width = y1 - y0, x1 - x0
    inner = luma[:, y0 + height // 8 : y1 - height // 4, x0 + width // 6 : x1 - width // 6]
    around = np.median(luma[:, y0:y1, x0:x1], axis=(1, 2))
    aperture = np.maximum(around[:, None, None] - inner, 0.0).mean(axis=(1, 2))
    side = luma.shape[1]
    eyes = []
    for x, y in EYES:
        top, bottom = round((y - EYE_HALF_HEIGHT) * side), round((y + EYE_HALF_HEIGHT) * side)
        left, right = round((x - EYE_HALF_WIDTH) * side), round((x + EYE_HALF_WIDTH) * side)
        around = luma[:, max(top - (bottom - top) // 2, 0) : bottom + (bottom - top) // 2, left:right]
        eyes.append(np.median(around, axis=(1, 2)) - _darkest(luma[:, top:bottom, left:right]))
    return FaceSignals(aperture, np.maximum(np.mean(eyes, axis=0), 0.0), _shifts(luma), fps)


def _darkest(luma: np.ndarray) -> np.ndarray:
    """Mean of the ``DARK_SHARE`` darkest pixels of each frame ``[T, h, w]``."""
    ordered = np.sort(luma.reshape(len(luma), -1), axis=1)
    means: np.ndarray = ordered[:, : max(1, round(DARK_SHARE * ordered.shape[1]))].mean(axis=1)
    return means


def _shifts(luma: np.ndarray) -> np.ndarray:
    """Shift of the upper face against the first frame, ``[T, 2]`` in percent of the distance of the eyes."""
    side = luma.shape[1]
    upper = luma[:, round(HEAD_ROWS[0] * side) : round(HEAD_ROWS[1] * side)].astype(np.float64)
    window = cv2.createHanningWindow((upper.shape[2], upper.shape[1]), cv2.CV_64F)
    found = [cv2.phaseCorrelate(upper[0], frame, window)[0] for frame in upper]
    # Of a picture and itself, OpenCV finds a shift of a part of a pixel.
    shifts: np.ndarray = (np.array(found) - found[0]) * 100.0 / (EYE_DISTANCE * side)
    return shifts


def count_blinks(signals: FaceSignals) -> int:
    """Number of blinks: ``BLINK_SECONDS`` in which the eyes' opening is below ``BLINK_DEPTH`` of the clip's median.

    The relative threshold is that of eye aspect ratios (Soukupova and Cech 2016), with the clip's own median as the
    open eye.
    """
    eye_opening = signals.eye_opening
    closed = np.concatenate([[False], eye_opening < BLINK_DEPTH * np.median(eye_opening), [False]])
    starts = np.flatnonzero(~closed[:-1] & closed[1:])
    ends = np.flatnonzero(closed[:-1] & ~closed[1:])
    seconds, (low, high) = (ends - starts) / signals.fps, BLINK_SECONDS
    return int(((seconds >= low - 1e-6) & (seconds <= high + 1e-6)).sum())


def band_motion(signals: FaceSignals) -> dict[str, float]:
    """Root mean square of the head's motion in each of ``BANDS``, in percent of the distance of the eyes.

    From the discrete Fourier transform of the positions minus their mean. The squares of all bands add up to the
    variance of x and y together (Parseval).
    """
    position, fps, count = signals.position, signals.fps, len(signals.position)
    spectrum = np.fft.rfft(position - position.mean(axis=0), axis=0)
    frequency = np.fft.rfftfreq(count, 1.0 / fps)
    # Each frequency but that of half the frame rate stands for its negative too.
    twice = np.where((frequency > 0) & ~np.isclose(frequency, fps / 2), 2.0, 1.0)
    power = (np.abs(spectrum) ** 2).sum(axis=1) * twice / count**2
    return {
        name: float(np.sqrt(power[(frequency > low) & (frequency <= high + 1e-9)].sum()))
        for name, (low, high) in BANDS.items()
    }


def landmark_distance(points: np.ndarray, real: np.ndarray) -> float:
    """Mean distance of landmarks ``[N, P, 2]`` (shares of the crop's side), in percent of the distance of the eyes.

    Frames in which the landmarks were not found (NaN) are left out; NaN if none is left.
    """
    distances = np.linalg.norm(points - real, axis=2).mean(axis=1)
    found = distances[np.isfinite(distances)]
    return float(found.mean() * 100.0 / EYE_DISTANCE) if len(found) else float("nan")
