"""Mouth and eyes of an aligned crop. Apart from ``media.face``, so that inference need not import OpenCV."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MOUTH_ROWS = (0.62, 0.90)
"""Top and bottom of the mouth region, shares of the crop's side."""
MOUTH_COLUMNS = (0.32, 0.68)
"""Left and right of the mouth region, shares of the crop's side."""
EYE_ROWS = (0.36, 0.47)
"""Top and bottom of the eyes, from the crease of the upper lid to below the lower one; shares of the crop's side."""
EYE_COLUMNS = ((0.27, 0.45), (0.55, 0.73))
"""Left and right of each eye, shares of the crop's side."""
UPPER_ROWS = 0.56
"""Bottom of the upper part of the crop, which ends at the tip of the nose; share of the crop's side."""
SOFTNESS = 0.015
"""Width of the transition at the border of a mask, share of the crop's side."""


def mouth_box(size: int) -> tuple[int, int, int, int]:
    """Returns y0, y1, x0, x1 of the mouth region of a crop of side ``size``: ``crop[y0:y1, x0:x1]``."""
    (y0, y1), (x0, x1) = MOUTH_ROWS, MOUTH_COLUMNS
    return round(y0 * size), round(y1 * size), round(x0 * size), round(x1 * size)


@functools.cache
def mouth_mask(size: int) -> Tensor:
    """Returns float32 ``[size, size]`` in [0, 1]: about 1 in the mouth region, 0.5 on its border, 0 far outside."""
    return _soft_box(size, *mouth_box(size))


@functools.cache
def upper_mask(size: int) -> Tensor:
    """Returns float32 ``[size, size]`` in [0, 1]: about 1 from the top of the crop to the tip of the nose, 0 below."""
    return torch.sigmoid((round(UPPER_ROWS * size) - torch.arange(size) - 0.5) / (SOFTNESS * size))[:, None].expand(
        size, size
    )


@functools.cache
def eye_mask(size: int) -> Tensor:
    """Returns float32 ``[size, size]`` in [0, 1]: about 1 in the two regions of the eyes, as ``mouth_mask``."""
    top, bottom = (round(share * size) for share in EYE_ROWS)
    return sum(
        (_soft_box(size, top, bottom, round(left * size), round(right * size)) for left, right in EYE_COLUMNS),
        start=torch.zeros(size, size),
    )


def _soft_box(size: int, y0: int, y1: int, x0: int, x1: int) -> Tensor:
    centres = torch.arange(size) + 0.5

    def band(low: int, high: int) -> Tensor:
        softness = SOFTNESS * size
        return torch.sigmoid((centres - low) / softness) * torch.sigmoid((high - centres) / softness)

    return band(y0, y1)[:, None] * band(x0, x1)[None]
