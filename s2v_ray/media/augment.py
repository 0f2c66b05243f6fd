"""Augmentation of frames on their device, with one set of random parameters per clip, shared by all its frames.

kornia's augmentation modules use torch's global generator, which dropout and the generator's noise share. Here the
parameters are drawn from a generator of their own that is seeded by a key, and only kornia's functions are used. So
the same key gives the same parameters on every device and after a resume, and no other random state changes.

Every function used here maps each pixel value in the same way in all frames. kornia's contrast about the mean does
not: the mean changes from frame to frame, which makes the clip flicker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import kornia.enhance as enhance
import kornia.geometry.transform as geometry
import numpy as np
import torch
from torch import Tensor

from s2v_ray.config import AugmentConfig

_STREAM = 0xA06  # separates these random numbers from others that are seeded by seed, step and rank


@dataclass(frozen=True)
class AugmentParameters:
    """Parameters of the augmentation of B clips, float32 ``[B]`` unless stated otherwise; None: not applied.

    Attributes:
        flip: bool ``[B]``, horizontal flip.
        angle: degrees, clockwise.
        scale: factor on the size; 1 is neutral.
        shift: ``[B, 2]``, x to the right and y down, shares of the side.
        brightness: added, shares of the range.
        contrast: gain about black; 1 is neutral.
        saturation: 0 is grey, 1 is neutral.
    """

    flip: Tensor | None = None
    angle: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None


def augment(frames: Tensor, config: AugmentConfig, key: Sequence[int], first: int = 0) -> Tensor:
    """Augments clips with parameters that depend on ``config``, ``key`` and a clip's position in the batch only.

    Args:
        frames: float ``[B, T, 3, S, S]`` in [-1, 1].
        config: limits of the parameters.
        key: integers >= 0, such as seed, step and rank.
        first: position of the first clip, if these are a part of a batch.

    Returns:
        the same shape and range; ``frames`` itself if everything is off.
    """
    return apply_parameters(frames, draw_parameters(config, len(frames), key, first))


def draw_parameters(config: AugmentConfig, clips: int, key: Sequence[int], first: int = 0) -> AugmentParameters:
    """Draws parameters for ``clips`` clips, uniform within the limits; a limit of 0 does not change the others."""
    drawn = torch.from_numpy(
        np.stack([np.random.default_rng([_STREAM, *key, i]).uniform(-1.0, 1.0, 8) for i in range(first, first + clips)])
    ).float()

    def uniform(limit: float, column: slice | int, centre: float = 0.0) -> Tensor | None:
        return None if limit == 0 else centre + limit * drawn[:, column]

    return AugmentParameters(
        flip=drawn[:, 0] < 2 * config.flip - 1 if config.flip else None,
        angle=uniform(config.rotation, 1),
        scale=uniform(config.scale, 2, 1.0),
        shift=uniform(config.shift, slice(3, 5)),
        brightness=uniform(config.brightness, 5),
        contrast=uniform(config.contrast, 6, 1.0),
        saturation=uniform(config.saturation, 7, 1.0),
    )


def apply_parameters(frames: Tensor, parameters: AugmentParameters) -> Tensor:
    """Flips, warps (repeating edges), then changes colours (clamped to [-1, 1]) of ``[B, T, 3, S, S]`` in [-1, 1]."""
    p = parameters
    if p.flip is not None:
        frames = torch.where(p.flip.to(frames.device)[:, None, None, None, None], frames.flip(-1), frames)
    if not (p.angle is None and p.scale is None and p.shift is None):
        frames = _warp(frames, p)
    if not (p.brightness is None and p.contrast is None and p.saturation is None):
        frames = _change_colours(frames, p)
    return frames


def _warp(frames: Tensor, parameters: AugmentParameters) -> Tensor:
    b, t, _, side, _ = frames.shape
    angle = torch.zeros(b) if parameters.angle is None else parameters.angle
    scale = torch.ones(b) if parameters.scale is None else parameters.scale
    shift = torch.zeros(b, 2) if parameters.shift is None else parameters.shift * side
    centre = torch.full((b, 2), (side - 1) / 2)  # pixel centres have integer coordinates
    matrices = geometry.get_affine_matrix2d(shift, centre, scale[:, None].expand(b, 2), angle)[:, :2]
    # The frames of a clip are the channels of one image, so that one matrix and one grid serve all of them.
    warped: Tensor = geometry.warp_affine(
        frames.flatten(1, 2), matrices.to(frames), (side, side), padding_mode="border", align_corners=True
    )
    return warped.reshape(b, t, 3, side, side)


def _change_colours(frames: Tensor, parameters: AugmentParameters) -> Tensor:
    t = frames.shape[1]
    images = (frames.flatten(0, 1) + 1.0) / 2.0  # kornia's range is [0, 1]

    def per_frame(values: Tensor) -> Tensor:
        return values.to(frames).repeat_interleave(t)

    if parameters.brightness is not None:
        images = enhance.adjust_brightness(images, per_frame(parameters.brightness))
    if parameters.contrast is not None:
        images = enhance.adjust_contrast(images, per_frame(parameters.contrast))
    if parameters.saturation is not None:
        images = enhance.adjust_saturation_with_gray_subtraction(images, per_frame(parameters.saturation))
    return (images * 2.0 - 1.0).reshape(frames.shape)
