"""A canvas that is drawn on in face coordinates, at twice the final size, to a sixteenth of a pixel."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates


@dataclass(frozen=True)
class Pose:
    """Pose of the head in a frame.

    Attributes:
        x, y: centre between the eyes, pixels of the video.
        scale: distance of the eyes, pixels.
        roll: radians.
    """

    x: float
    y: float
    scale: float
    roll: float = 0.0

    def place(self, points: np.ndarray) -> np.ndarray:
        """Transforms face coordinates ``[N, 2]`` to pixels ``[N, 2]``."""
        c, s = math.cos(self.roll), math.sin(self.roll)
        placed: np.ndarray = np.array([self.x, self.y]) + self.scale * (points @ np.array([[c, s], [-s, c]]))
        return placed


class Canvas:
    """Collects strokes in face coordinates and draws them in their order.

    The points of all strokes are transformed together, which takes a third of the time of transforming each stroke.

    Args:
        pose: of the head.
    """

    def __init__(self, pose: Pose) -> None:
        self._pose = pose
        self._strokes: list[tuple[np.ndarray, Colour, float]] = []  # points, colour, width (0: filled)
        self._offset = 0.0

    def set_offset(self, x: float) -> None:
        """Moves the origin of the following strokes horizontally to ``x``."""
        self._offset = x

    def fill(self, points: np.ndarray, colour: Colour) -> None:
        """Adds a filled polygon ``[N, 2]``."""
        self.line(points, colour, 0.0)

    def line(self, points: np.ndarray, colour: Colour, width: float) -> None:
        """Adds an open polyline ``[N, 2]``; ``width`` in distances of the eyes."""
        self._strokes.append((points + (self._offset, 0.0) if self._offset else points, colour, width))

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        """Adds a filled ellipse around (x, y) with radii ``rx`` and ``ry``."""
        self.fill(arc(x, y, rx, ry), colour)

    def render(self, background: np.ndarray) -> np.ndarray:
        """Draws all strokes over a copy of ``background`` uint8 ``[2S, 2S, 3]`` and averages it to ``[S, S, 3]``."""
        image = background.copy()
        points = self._pose.place(np.concatenate([points for points, _, _ in self._strokes]))
        # The centre of pixel x of the video lies between pixels 2x and 2x + 1 of the image.
        fixed = np.rint((points * 2.0 + 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
        start = 0
        for points, colour, width in self._strokes:
            stroke, start = fixed[start : start + len(points)], start + len(points)
            if width:
                thickness = max(round(2.0 * width * self._pose.scale), 1)
                cv2.polylines(image, [stroke], False, colour, thickness, cv2.LINE_AA, _FRACTION_BITS)
            else:
                cv2.fillPoly(image, [stroke], colour, cv2.LINE_AA, _FRACTION_BITS)
        return cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)


def arc(x: float, y: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0) -> np.ndarray:
    """Returns points ``[N, 2]`` on an ellipse around (x, y); angles in degrees, 0 is right, 90 is down."""
    points: np.ndarray = _unit_arc(start, end) * (rx, ry) + (x, y)
    return points


@functools.cache
def _unit_arc(start: float, end: float) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, max(int(abs(end - start) / 15.0), 4) + 1))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def curve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the points ``[N, 2]`` with coordinates ``x`` and ``y``."""
    points = np.empty((len(x), 2))
    points[:, 0], points[:, 1] = x, y
    return points


def between(x: np.ndarray, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Returns the closed outline ``[2N, 2]`` of the area between two curves over the same x."""
    n = len(x)
    points = np.empty((2 * n, 2))
    points[:n, 0], points[:n, 1] = x, top
    points[n:, 0], points[n:, 1] = x[::-1], bottom[::-1]
    return points


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Mixes two colours; ``share`` is that of the second."""
    (a, b, c), (d, e, f) = first, second
    return round(a + share * (d - a)), round(b + share * (e - b)), round(c + share * (f - c))
