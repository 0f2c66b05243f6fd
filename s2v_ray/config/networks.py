"""Sections of a recipe about networks: student, generator."""

from __future__ import annotations

import math

from pydantic import Field

from s2v_ray.config.base import Positive, Section


class StudentConfig(Section):
    """The speech network."""

    width: Positive = Field(128, description="Channels of the speech encoders.")
    layers: Positive = Field(4, description="Residual blocks of each encoder.")
    emotion_dim: Positive = Field(8, description="Dimension of the emotion code.")
    content_dim: Positive = Field(
        24, description="Dimension of the content of each frame. A wide one also carries appearance."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the identity and emotion encoders.")
    content_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the content encoder.")
    lookahead: int | None = Field(
        5,
        ge=2,
        description="Largest number of frames (40 ms each) after a frame that its content may depend on: the latency "
        "of live use. null: as many as before it.",
    )


TAKE_STRIDES = (8, 4)
"""Pixels of the crop in an entry of the maps of the take latent."""


class GeneratorConfig(Section):
    """The network that draws the frames."""

    channels: tuple[Positive, ...] = Field(
        (128, 96, 64, 32, 16),
        description="Channels at 4, 8, 16, ... pixels; one entry for each doubling up to the side of the crop.",
    )
    take_dim: Positive = Field(
        32, description="Dimension of the take latent: what a recording looks like beyond what speech determines."
    )
    take_maps: tuple[int, ...] = Field(
        (),
        max_length=2,
        description="Channels of the maps of the take latent, at 1/8 and 1/4 of the side of the crop: what has a place "
        "in the picture, such as hair and background.",
    )
    motion_dim: Positive = Field(6, description="Dimension of the motion code of each frame (blinks, sway).")
    take_width: int = Field(
        16, gt=0, multiple_of=4, description="Channels of the first layer of the encoder of take and motion."
    )
    take_clips: Positive = Field(256, description="Training clips whose takes the bundle keeps as take prior.")
    motion_clips: Positive = Field(128, description="Training clips whose motion the bundle keeps as motion prior.")
    motion_frames: Positive = Field(100, description="Longest part of a clip that the motion prior keeps, frames.")
    reference: bool = Field(
        False,
        description="True builds the reference baseline: with an image encoder and skip connections from a still.",
    )

    def take_shapes(self, size: int) -> list[tuple[int, int, int]]:
        """Return the shapes ``[C, H, W]`` of the maps of the take latent for frames of ``size`` pixels."""
        return [(c, size // side, size // side) for c, side in zip(self.take_maps, TAKE_STRIDES, strict=False)]

    def take_size(self, size: int) -> int:
        """Return the number of entries of the take latent, Z: those of the vector and of the maps."""
        return self.take_dim + sum(math.prod(shape) for shape in self.take_shapes(size))

    def check_size(self, size: int) -> None:
        """Check that the channels fit frames of ``size`` pixels.

        Raises:
            ValueError: there are too many or too few entries.
        """
        levels = (size // 4).bit_length()  # 96 pixels: 6, doubled 4 times
        if len(self.channels) != levels:
            raise ValueError(
                f"gan.generator.channels needs {levels} entries for media.size={size} "
                f"({size >> (levels - 1)} pixels doubled {levels - 1} times), not {len(self.channels)}"
            )
