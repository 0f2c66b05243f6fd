"""Sections of a recipe about networks: student, generator."""

from __future__ import annotations

from pydantic import Field

from s2v_ray.config.base import Positive, Section


class StudentConfig(Section):
    """The speech network."""

    width: Positive = Field(128, description="Channels of the speech encoders.")
    layers: Positive = Field(4, description="Residual blocks of each encoder.")
    emotion_dim: Positive = Field(8, description="Dimension of the emotion code.")
    content_dim: Positive = Field(64, description="Dimension of the content of each frame.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the identity and emotion encoders.")


class GeneratorConfig(Section):
    """The network that draws the frames."""

    channels: tuple[Positive, ...] = Field(
        (128, 96, 64, 32, 16),
        description="Channels at 4, 8, 16, ... pixels; one entry for each doubling up to the side of the crop.",
    )
    noise_dim: Positive = Field(8, description="Dimension of the noise sequence.")
    reference: bool = Field(
        False,
        description="True builds the reference baseline: with an image encoder and skip connections from a still.",
    )

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
