"""Input of face networks, cut from aligned crops, and their output by role.

Crops are aligned to ``media.face.TEMPLATE``, so the transform from a crop to the input of any network is one fixed
affine map.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2v_ray.media.face import TEMPLATE, similarity
from s2v_ray.models.face_card import Card

ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
"""Landmarks of the ArcFace template (Deng et al. 2019), pixels of 112 x 112; in the 112 x 96 variant, x is 8 less."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (BT.601)."""


def preprocess(frames: Tensor, card: Card) -> Tensor:
    """Cuts the input of a network out of crops.

    Bilinear, and antialiased if the network's resolution is lower than that of the crops; outside the crop its
    border is repeated.

    Args:
        frames: uint8 ``[N, S, S, 3]``, aligned to ``TEMPLATE``.
        card: of the network.

    Returns:
        float32 ``[N, C, height, width]``, normalised as the card says.
    """
    faces = frames.movedim(3, 1).float()
    matrix = crop_from_card(card, faces.shape[2])
    # Pixels of the crop per pixel of the input.
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))) * faces.shape[2]
    if shrink > 1.0:
        side = max(round(faces.shape[2] / shrink), 1)
        faces = F.interpolate(faces, size=(side, side), mode="bilinear", antialias=True)
    if not _is_identity(matrix, card, faces.shape[2]):
        theta = torch.from_numpy(_normalised(matrix, card)).float().to(faces.device)
        grid = F.affine_grid(
            theta.expand(len(faces), 2, 3), [len(faces), 3, card.height, card.width], align_corners=False
        )
        faces = F.grid_sample(faces, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if card.colour == "bgr":
        faces = faces.flip(1)
    elif card.colour == "grey":
        faces = (faces * faces.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (faces - faces.new_tensor(card.mean).view(1, -1, 1, 1)) / faces.new_tensor(card.scale).view(1, -1, 1, 1)


def postprocess(outputs: Tensor, role: str) -> Tensor:
    """Converts the outputs of a network to those of its role: unit length, logits, or an opening in [0, 1]."""
    if role == "identity":
        return F.normalize(outputs, dim=1)
    return outputs.sigmoid() if role == "mouth" else outputs


def crop_from_card(card: Card, size: int) -> np.ndarray:
    """Returns the affine map from pixels of the network's input to the crop in [0, 1], float64 ``[2, 3]``, y down.

    In both, the centre of a pixel is half a pixel from its edges.
    """
    if card.alignment == "box":
        left, top, side = card.box
        return np.array([[side / card.width, 0.0, left], [0.0, side / card.height, top]])
    points = ARCFACE - [(112 - card.width) / 2, 0.0]
    # Both templates have pixel centres at integer coordinates.
    matrix: np.ndarray = similarity(points[None] + 0.5, TEMPLATE[None] + 0.5 / size)[0]
    return matrix


def _normalised(matrix: np.ndarray, card: Card) -> np.ndarray:
    """Returns ``crop_from_card`` in the coordinates of ``affine_grid``, [-1, 1] over the image."""
    pixels = np.array([[card.width / 2, 0, card.width / 2], [0, card.height / 2, card.height / 2], [0, 0, 1]])
    theta: np.ndarray = np.array([[2.0, 0, -1], [0, 2.0, -1]]) @ np.vstack([matrix @ pixels, [0, 0, 1]])
    return theta


def _is_identity(matrix: np.ndarray, card: Card, size: int) -> bool:
    """Returns whether the input of the network is the crop itself."""
    return card.height == card.width == size and np.allclose(matrix * size, np.eye(2, 3))
