"""Losses between generated and real frames."""

from __future__ import annotations

from torch import Tensor


def weighted_l1(fake: Tensor, real: Tensor, weight: Tensor) -> Tensor:
    """Computes the mean absolute error with a weight for each pixel: ``mean(|fake - real| * weight) / mean(weight)``.

    Vougioukas et al. 2019 weight the lower half of the face in this way.

    Args:
        fake: ``[..., H, W]`` in [-1, 1].
        real: the same shape and range.
        weight: ``[H, W]``, not negative.

    Returns:
        scalar in [0, 2].
    """
    return ((fake - real).abs() * weight).mean() / weight.mean()
