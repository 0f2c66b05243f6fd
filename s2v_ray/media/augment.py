"""Augmentation of frames on their device: one draw for each clip, the same for all its frames.

kornia's own augmentation modules draw from torch's global generator, which dropout and noise share. Here numbers are drawn
apart, by a generator that is made of a key, and only kornia's functions are used: the same key gives the same draw on every
device and after a resume, and drawing moves no other random state.

Each function applied is the same map for every picture. kornia's contrast about the mean is not: the mean changes from frame to
frame, and the clip would flicker.
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

_STREAM = 0xA06  # sets these draws apart from others that are made of seed, step and rank


@dataclass(frozen=True)
class Draw:
    """What happens to B clips, as float32 ``[B]`` each unless said otherwise; None: to none of them.

    Attributes:
        flip: bool ``[B]``.
        angle: degrees, clockwise as seen.
        scale: 1 leaves the size.
        shift: ``[B, 2]``, x to the right and y down, shares of the side.
        brightness: added, in shares of the range.
        contrast: gain, the darkest value staying where it is.
        saturation: 0 is grey, 1 leaves the colours.
    """

    flip: Tensor | None = None
    angle: Tensor | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    saturation: Tensor | None = None


def augment(frames: Tensor, config: AugmentConfig, key: Sequence[int]) -> Tensor:
    """Clips after a draw that depends on ``config``, ``key`` and their number alone, not on how many frames they have.

    Args:
        frames: float ``[B, T, 3, S, S]`` in [-1, 1].
        key: whole numbers >= 0, as seed, step and rank.

    Returns:
        the same shape and range; ``frames`` itself where everything is off.
    """
    return apply(frames, draw(config, len(frames), key))


def draw(config: AugmentConfig, clips: int, key: Sequence[int]) -> Draw:
    """Draws for ``clips`` clips, uniform within the limits. A setting that is 0 does not change what is drawn for the others."""
    rng = np.random.default_rng([_STREAM, *key])

    def within(limit: float, middle: float = 0.0, width: int = 1) -> Tensor | None:
        drawn = torch.from_numpy(middle + limit * rng.uniform(-1.0, 1.0, (clips, width))).float()
        return None if limit == 0 else drawn.squeeze(1)

    flips = torch.from_numpy(rng.random(clips) < config.flip)
    return Draw(
        flip=flips if config.flip else None,
        angle=within(config.rotation),
        scale=within(config.scale, 1.0),
        shift=within(config.shift, width=2),
        brightness=within(config.brightness),
        contrast=within(config.contrast, 1.0),
        saturation=within(config.saturation, 1.0),
    )


def apply(frames: Tensor, drawn: Draw) -> Tensor:
    """``frames``, float ``[B, T, 3, S, S]`` in [-1, 1], flipped, then warped (edges repeated), then coloured (clamped to [-1, 1])."""
    if drawn.flip is not None:
        frames = torch.where(drawn.flip.to(frames.device)[:, None, None, None, None], frames.flip(-1), frames)
    if not (drawn.angle is None and drawn.scale is None and drawn.shift is None):
        frames = _warp(frames, drawn)
    if not (drawn.brightness is None and drawn.contrast is None and drawn.saturation is None):
        frames = _colour(frames, drawn)
    return frames


def _warp(frames: Tensor, drawn: Draw) -> Tensor:
    b, t, _, side, _ = frames.shape
    zero, one = torch.zeros(b), torch.ones(b)
    angle, scale = (zero if drawn.angle is None else drawn.angle), (one if drawn.scale is None else drawn.scale)
    shift = torch.zeros(b, 2) if drawn.shift is None else drawn.shift * side
    centre = torch.full((b, 2), (side - 1) / 2)  # a pixel's centre lies at whole numbers
    matrices = geometry.get_affine_matrix2d(shift, centre, scale[:, None].expand(b, 2), angle)[:, :2]
    # the frames of a clip as channels of one picture: one matrix, one grid
    warped = geometry.warp_affine(
        frames.flatten(1, 2), matrices.to(frames), (side, side), padding_mode="border", align_corners=True
    )
    return warped.unflatten(1, (t, 3))


def _colour(frames: Tensor, drawn: Draw) -> Tensor:
    b, t = frames.shape[:2]
    pictures = (frames.flatten(0, 1) + 1.0) / 2.0  # kornia's range is [0, 1]

    def each(values: Tensor) -> Tensor:
        return values.to(frames).repeat_interleave(t)

    if drawn.brightness is not None:
        pictures = enhance.adjust_brightness(pictures, each(drawn.brightness))
    if drawn.contrast is not None:
        pictures = enhance.adjust_contrast(pictures, each(drawn.contrast))
    if drawn.saturation is not None:
        pictures = enhance.adjust_saturation_with_gray_subtraction(pictures, each(drawn.saturation))
    return (pictures * 2.0 - 1.0).unflatten(0, (b, t))
