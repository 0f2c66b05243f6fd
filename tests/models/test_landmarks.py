"""Landmarks in shares of the crop, whatever part of it the network takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from s2v_ray.media.face import Detection
from s2v_ray.models.face_card import Card
from s2v_ray.models.landmarks import DetectorLandmarks, LandmarkNetwork
from s2v_ray.models.teachers import FaceNetwork
from tests.helpers.face_networks import plain_card

LANDMARKS = {"role": "landmarks", "dim": 4, "eyelids": ((0, 1),), "lips": ((1, 0),)}


def network(card: Card, *points: float) -> LandmarkNetwork:
    """A network that always finds the same points, shares of its input."""
    return LandmarkNetwork(FaceNetwork(card, lambda faces: torch.tensor([points]).expand(len(faces), -1)))


def test_points_are_mapped_from_the_input_to_the_crop() -> None:
    frames = np.zeros((3, 32, 32, 3), np.uint8)
    whole = network(plain_card(**LANDMARKS), 0.5, 0.25, 1.0, 0.0)(frames)
    assert whole.shape == (3, 2, 2)
    np.testing.assert_allclose(whole[2], [[0.5, 0.25], [1.0, 0.0]])
    boxed = network(plain_card(**LANDMARKS, box=(0.1, 0.2, 0.5)), 0.5, 0.25, 1.0, 0.0)(frames)
    np.testing.assert_allclose(boxed[0], [[0.35, 0.325], [0.6, 0.2]])


def test_a_card_names_eyelids_and_lips() -> None:
    found = network(plain_card(**LANDMARKS, title="points"), 0, 0, 0, 0)
    assert (found.eyelids, found.lips, found.title) == (((0, 1),), ((1, 0),), "points")
    assert network(plain_card(**LANDMARKS | {"eyelids": ()}), 0, 0, 0, 0).eyelids == ()
    for wrong in ({"lips": ()}, {"lips": ((0, 2),)}, {"eyelids": ((2, 0),)}, {"dim": 5}):
        with pytest.raises(ValidationError, match="needs pairs of lips, and indices below dim / 2"):
            plain_card(**LANDMARKS | wrong)
    with pytest.raises(ValueError, match="needs a card with the role landmarks, not identity"):
        network(plain_card(title="other"), 0, 0, 0, 0)


class Detector:
    """Finds a face where a frame is bright, with one landmark in the corner pixel of the crop."""

    def detect(self, frame: np.ndarray) -> list[Detection]:
        if frame.max() == 0:
            return []
        border = (len(frame) - 32) // 2
        points = np.tile([[border + 0.0, border + 31.0]], (5, 1))
        return [Detection((0, 0, 1, 1), points, 1.0)]


def test_a_detector_finds_five_points_or_none() -> None:
    frames = np.stack([np.full((32, 32, 3), 255, np.uint8), np.zeros((32, 32, 3), np.uint8)])
    found = DetectorLandmarks(Detector(), "five")(frames)
    assert found.shape == (2, 5, 2)
    np.testing.assert_allclose(found[0], np.tile([0.5 / 32, 31.5 / 32], (5, 1)))
    assert np.isnan(found[1]).all()
