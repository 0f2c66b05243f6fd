"""Motion of a face: aperture of the mouth, blinks, and the spectrum of the head's motion.

The signals come from the landmarks of a network that has eyelids and lips, or from the brightness of an aligned crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from s2v_ray.metrics.appearance import luma_of
from s2v_ray.metrics.image import Box

EYE_DISTANCE = 0.28
"""Distance of the eyes in an aligned crop, share of its side (``media.face.TEMPLATE``)."""
EYES = ((0.36, 0.42), (0.64, 0.42))
"""Centres of the eyes in an aligned crop, shares of its side."""
IRIS_ROWS, IRIS_COLUMNS, IRIS_WIDTH = (-0.035, 0.02), (-0.04, 0.04), 0.04
"""Rows and columns in which an iris is looked for, around the centre of the eye, and its width; shares of the side."""
SKIN_ROWS, SKIN_COLUMNS = (-0.06, 0.06), (-0.09, 0.09)
"""Rows and columns around the centre of the eye whose median is the brightness of skin; shares of the side."""
HEAD_ROWS = (0.15, 0.58)
"""Rows of the crop whose shift is the head's motion: brows, eyes and nose, without the mouth."""
CLOSED_LIDS, CLOSED_IRIS = 0.7, 0.5
"""An eye is closed while its opening is below this share of the clip's median: by eyelids, and by brightness.

On 28 clips of GRID, brightness is below its share in 83% of the frames in which the lids of a landmark network are less
than 0.94 of their median apart, and in 4% of the others.
"""
BLINK_SECONDS = (0.08, 0.6)
"""Shortest and longest blink. Longer is a closed eye, and a single frame at 25 fps is noise."""
BANDS = {"slow": (0.0, 1.0), "middle": (1.0, 3.0), "fast": (3.0, 12.5)}
"""Bands of the head's motion in Hz: sway, nods, and jitter. The lower end does not belong to a band."""


@dataclass(frozen=True, eq=False)
class FaceSignals:
    """Signals of one clip over time.

    Attributes:
        aperture: ``[T]``: aperture of the mouth, in any unit.
        eye_opening: ``[T]``: mean opening of the eyes, in any unit.
        position: ``[T, 2]``: position of the head, x and y in percent of the distance of the eyes.
        fps: frames per second.
        closed: share of the median of ``eye_opening`` below which the eyes are closed.
    """

    aperture: np.ndarray
    eye_opening: np.ndarray
    position: np.ndarray
    fps: float
    closed: float = CLOSED_IRIS


def signals_of_frames(frames: np.ndarray, mouth: Box, fps: float) -> FaceSignals:
    """Signals from the brightness of aligned crops, uint8 ``[T, S, S, 3]``.

    Aperture: how much darker the middle of the mouth box is than the median of the whole box, mean over the pixels that
    are darker; an open mouth is dark inside. Opening of the eyes: how much darker than the skin the darkest upright
    strip of the eye is; lids cover the iris, and lashes are dark too, but not upright. Position: shift of the upper
    face against the clip's first frame by phase correlation (Foroosh et al. 2002).
    """
    luma = luma_of(frames)
    y0, y1, x0, x1 = mouth
    height, width = y1 - y0, x1 - x0
    inner = luma[:, y0 + height // 8 : y1 - height // 4, x0 + width // 6 : x1 - width // 6]
    around = np.median(luma[:, y0:y1, x0:x1], axis=(1, 2))
    aperture = np.maximum(around[:, None, None] - inner, 0.0).mean(axis=(1, 2))
    return FaceSignals(aperture, _iris_darkness(luma), _shifts(luma), fps)


def with_landmarks(
    signals: FaceSignals,
    points: np.ndarray,
    eyelids: Sequence[tuple[int, int]],
    lips: Sequence[tuple[int, int]],
) -> FaceSignals:
    """Replaces signals by those of landmarks: mean distances of pairs of points, and the mean of all points but lips.

    Args:
        signals: signals by brightness.
        points: ``[T, P, 2]``, shares of the crop's side.
        eyelids: indices of upper and lower lid, pair by pair; without any, the opening of the eyes is kept.
        lips: indices of upper and lower inner lip, pair by pair.
    """

    def opening(pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        upper, lower = (points[:, [pair[i] for pair in pairs]] for i in (0, 1))
        distance: np.ndarray = np.linalg.norm(upper - lower, axis=2).mean(axis=1)
        return distance

    fixed = np.setdiff1d(np.arange(points.shape[1]), np.array(lips).ravel())
    found = replace(signals, aperture=opening(lips), position=100.0 / EYE_DISTANCE * points[:, fixed].mean(axis=1))
    return replace(found, eye_opening=opening(eyelids), closed=CLOSED_LIDS) if eyelids else found


def _iris_darkness(luma: np.ndarray) -> np.ndarray:
    """How much darker than skin the darkest upright strip of each eye is, mean over the eyes: ``[T]``, at least 0."""
    side = luma.shape[1]
    strip = np.full(max(1, round(IRIS_WIDTH * side)), 1.0)
    eyes = []
    for x, y in EYES:
        columns = _around(luma, (x, y), IRIS_ROWS, IRIS_COLUMNS).mean(axis=1)
        strips = np.stack([np.convolve(row, strip / len(strip), "valid") for row in columns])
        eyes.append(np.median(_around(luma, (x, y), SKIN_ROWS, SKIN_COLUMNS), axis=(1, 2)) - strips.min(axis=1))
    darkness: np.ndarray = np.maximum(np.mean(eyes, axis=0), 0.0)
    return darkness


def _around(
    luma: np.ndarray, centre: tuple[float, float], rows: tuple[float, float], columns: tuple[float, float]
) -> np.ndarray:
    """The part of ``[T, S, S]`` in rows and columns around a centre (x, y), all in shares of the side."""
    side = luma.shape[1]
    (top, bottom), (left, right) = (
        [round((middle + edge) * side) for edge in edges] for middle, edges in ((centre[1], rows), (centre[0], columns))
    )
    return luma[:, max(top, 0) : bottom, max(left, 0) : right]


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
    """Number of blinks: ``BLINK_SECONDS`` in which the eyes' opening is below a share of the clip's median.

    As for eye aspect ratios (Soukupova and Cech 2016), with the clip's own median as the open eye.
    """
    eye_opening = signals.eye_opening
    closed = np.concatenate([[False], eye_opening < signals.closed * np.median(eye_opening), [False]])
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
