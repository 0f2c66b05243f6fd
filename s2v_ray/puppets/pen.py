"""A pen that draws in face coordinates onto a picture twice the final size, to a sixteenth of a pixel."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

_SHIFT = 4  # OpenCV takes fixed-point coordinates: 4 fractional bits


@dataclass(frozen=True)
class Pose:
    """Where the head is: the middle of the eyes (x, y) and their distance in pixels of the video, and its roll in radians."""

    x: float
    y: float
    scale: float
    roll: float = 0.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """Face coordinates ``[N, 2]`` -> pixels ``[N, 2]``."""
        c, s = math.cos(self.roll), math.sin(self.roll)
        return np.array([self.x, self.y]) + self.scale * (points @ np.array([[c, s], [-s, c]]))


class Pen:
    """Takes strokes in face coordinates and draws them, in their order, when the picture is asked for: placing all
    points at once costs a third of placing them stroke by stroke."""

    def __init__(self, pose: Pose) -> None:
        self._pose = pose
        self._strokes: list[tuple[np.ndarray, Colour, float]] = []  # width 0 fills
        self._x = 0.0

    def shift(self, x: float) -> None:
        """Moves the origin of what is drawn from now on sideways, to ``x``."""
        self._x = x

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """A closed polygon ``[N, 2]``."""
        self.line(points, colour, 0.0)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """An open line through ``[N, 2]``; ``width`` in distances of the eyes."""
        self._strokes.append((points + (self._x, 0.0) if self._x else points, colour, width))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        self.fill(arc(x, y, rx, ry), colour)

    def picture(self, background: np.ndarray) -> np.ndarray:
        """Everything drawn over a copy of ``background`` uint8 ``[2S, 2S, 3]``, averaged to ``[S, S, 3]``."""
        image = background.copy()
        # the centre of pixel x of the video lies between pixels 2x and 2x + 1 of the picture
        placed = (self._pose.place(np.concatenate([points for points, _, _ in self._strokes])) * 2.0 + 0.5) * (
            1 << _SHIFT
        )
        fixed, start = np.rint(placed).astype(np.int32), 0
        for points, colour, width in self._strokes:
            stroke, start = fixed[start : start + len(points)], start + len(points)
            if width:
                cv2.polylines(
                    image, [stroke], False, colour, max(round(2.0 * width * self._pose.scale), 1), cv2.LINE_AA, _SHIFT
                )
            else:
                cv2.fillPoly(image, [stroke], colour, cv2.LINE_AA, _SHIFT)
        return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    """Points ``[N, 2]`` along an ellipse around (x, y) from ``start`` to ``end`` degrees; 0 points right, 90 down."""
    return _unit_arc(start, end) * (rx, ry) + (x, y)


@functools.cache
def _unit_arc(start: float, end: float) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, max(int(abs(end - start) / 15.0), 4) + 1))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points ``[N, 2]``."""
    points = np.empty((len(x), 2))
    points[:, 0], points[:, 1] = x, y
    return points


def between(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The closed outline ``[2N, 2]`` of what lies between two curves over the same x."""
    n = len(x)
    points = np.empty((2 * n, 2))
    points[:n, 0], points[:n, 1] = x, top
    points[n:, 0], points[n:, 1] = x[::-1], bottom[::-1]
    return points


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``share`` of the second colour in the first."""
    (a, b, c), (d, e, f) = first, second
    return round(a + share * (d - a)), round(b + share * (e - b)), round(c + share * (f - c))
