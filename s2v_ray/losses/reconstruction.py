"""Losses between generated and real frames."""

from __future__ import annotations

from torch import Tensor


def weighted_l1(fake: Tensor, real: Tensor, mouth_mask: Tensor, mouth_weight: float) -> Tensor:
    """Computes the mean absolute error with extra weight on the mouth.

    ``mean(|fake - real| * (1 + mouth_weight * mask)) / mean(1 + mouth_weight * mask)``. Vougioukas et al. 2019
    weight the lower half of the face in the same way.

    Args:
        fake: ``[..., H, W]`` in [-1, 1].
        real: the same shape and range.
        mouth_mask: ``[H, W]`` in [0, 1].
        mouth_weight: extra weight where the mask is 1.

    Returns:
        scalar in [0, 2].
    """
    weight = 1.0 + mouth_weight * mouth_mask
    return ((fake - real).abs() * weight).mean() / weight.mean()
