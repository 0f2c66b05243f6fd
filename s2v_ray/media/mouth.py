"""The mouth region of an aligned crop. Apart from ``media.face``, so that inference need not import OpenCV."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

MOUTH_ROWS = (0.62, 0.90)
"""Top and bottom of the mouth region, shares of the crop's side."""
MOUTH_COLUMNS = (0.32, 0.68)
"""Left and right of the mouth region, shares of the crop's side."""


def mouth_box(size: int) -> tuple[int, int, int, int]:
    """Returns y0, y1, x0, x1 of the mouth region of a crop of side ``size``: ``crop[y0:y1, x0:x1]``."""
    (y0, y1), (x0, x1) = MOUTH_ROWS, MOUTH_COLUMNS
    return round(y0 * size), round(y1 * size), round(x0 * size), round(x1 * size)


@functools.cache
def mouth_mask(size: int) -> Tensor:
    """Returns float32 ``[size, size]`` in [0, 1]: about 1 in the mouth region, 0.5 on its border, 0 far outside."""
    y0, y1, x0, x1 = mouth_box(size)
    softness = 0.015 * size
    centres = torch.arange(size) + 0.5

    def band(low: int, high: int) -> Tensor:
        return torch.sigmoid((centres - low) / softness) * torch.sigmoid((high - centres) / softness)

    return band(y0, y1)[:, None] * band(x0, x1)[None]
