"""Landmarks of faces in aligned crops: a network by its card, or the five points of YuNet."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from s2v_ray.media.face import Detector
from s2v_ray.models.face_card import Card
from s2v_ray.models.face_input import crop_from_card
from s2v_ray.models.teachers import FaceNetwork

BORDER = 0.5
"""Border that is added around a crop before detection, share of its side: a detector expects more than the face."""


class LandmarkNetwork:
    """Finds the landmarks of faces with a network.

    Args:
        network: of the role "landmarks".

    Attributes:
        title: name of the network.
        eyelids: indices of upper and lower eyelid, pair by pair.
        lips: indices of upper and lower inner lip, pair by pair.

    Raises:
        ValueError: the network has another role.
    """

    def __init__(self, network: FaceNetwork) -> None:
        card: Card = network.card
        if card.role != "landmarks":
            raise ValueError(f"evaluate.landmarks needs a card with the role landmarks, not {card.role}: {card.title}")
        self._network = network
        self.title = card.title
        self.eyelids, self.lips = card.eyelids, card.lips

    def __call__(self, frames: np.ndarray | Tensor, /) -> np.ndarray:
        """Finds points: uint8 ``[N, S, S, 3]`` -> float64 ``[N, P, 2]``, x and y in shares of the crop's side."""
        faces = torch.as_tensor(frames)
        card = self._network.card
        shares = self._network(faces).double().numpy().reshape(len(faces), -1, 2)
        matrix = crop_from_card(card, faces.shape[1])
        points: np.ndarray = shares * [card.width, card.height] @ matrix[:, :2].T + matrix[:, 2]
        return points


class DetectorLandmarks:
    """Finds the five landmarks of a face detector; NaN where it finds no face.

    Args:
        detector: finds faces and their landmarks.
        title: name of the detector.

    Attributes:
        title: name of the detector.
        eyelids: none.
        lips: none.
    """

    eyelids: tuple[tuple[int, int], ...] = ()
    lips: tuple[tuple[int, int], ...] = ()

    def __init__(self, detector: Detector, title: str) -> None:
        self._detector, self.title = detector, title

    def __call__(self, frames: np.ndarray | Tensor, /) -> np.ndarray:
        """Finds points: uint8 ``[N, S, S, 3]`` -> float64 ``[N, 5, 2]``, x and y in shares of the crop's side."""
        faces = np.asarray(frames)
        border = round(BORDER * faces.shape[1])
        points = np.full((len(faces), 5, 2), np.nan)
        for i, face in enumerate(np.pad(faces, ((0, 0), (border, border), (border, border), (0, 0)), mode="edge")):
            found = self._detector.detect(face)
            if found:
                points[i] = (found[0].landmarks - border + 0.5) / faces.shape[1]
        return points
