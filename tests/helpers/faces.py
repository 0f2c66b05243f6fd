"""A detector that returns the faces it is given, for tests of ingest without face detection."""

from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.ingest import scan
from s2v_ray.media import face

BOX = (20.0, 4.0, 76.0, 60.0)
LANDMARKS = face.TEMPLATE * 56 + [20, 4]
"""Five points in ``BOX``, in a frame of 96 x 64 pixels."""


class StubDetector:
    """Detects ``faces`` in every frame; ``calls`` counts the frames."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.faces = detections(*(boxes or (BOX,)))
        self.calls = 0

    def detect(self, frame: np.ndarray) -> list[face.Detection]:
        self.calls += 1
        return self.faces


def detections(*boxes: tuple[float, float, float, float]) -> list[face.Detection]:
    return [face.Detection(box, LANDMARKS, 1.0) for box in boxes]


def install_detector(monkeypatch: pytest.MonkeyPatch) -> StubDetector:
    """Makes ingest use a stub in place of every detector."""
    stub = StubDetector()
    monkeypatch.setattr(scan, "_detector", lambda name: stub)
    return stub


def turned(degrees: float) -> np.ndarray:
    """Landmarks ``[5, 2]`` in a crop of 32 pixels of an average face that is turned, from far away."""
    depth = np.array([0.0, 0.0, 0.75, 0.28, 0.28])[:, None]
    x, y = np.split((face.TEMPLATE - face.TEMPLATE[:2].mean(0)) / 0.28, 2, axis=1)
    angle = np.radians(degrees)
    return np.concatenate([x * np.cos(angle) + depth * np.sin(angle), y], axis=1) * 0.28 * 32 + [16, 13]
