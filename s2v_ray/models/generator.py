"""The generator, from identity, emotion, content and noise to frames; and the whole model, from speech to video.

Shapes: B clips, T frames, L >= T frames of speech, D identity, E emotion, C content, Z noise, S side of a frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from s2v_ray.config import GeneratorConfig, Recipe
from s2v_ray.models.student import Student, StudentOutput


class ModulatedBlock(nn.Module):
    """Convolution, modulation by the codes (FiLM, Perez et al. 2018), and pixel shuffle to twice the side.

    Compared with upsampling before the convolution, pixel shuffle needs a quarter of the arithmetic.

    Args:
        channels: of the input.
        out_channels: of the output.
        code_dim: size of the code.
        skip_channels: channels that are concatenated to the input.
    """

    def __init__(self, channels: int, out_channels: int, code_dim: int, skip_channels: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + skip_channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(max(1, channels // 16), channels, affine=False)
        self.film = nn.Linear(code_dim, 2 * channels)
        self.up = nn.Conv2d(channels, 4 * out_channels, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor, skip: Tensor | None = None) -> Tensor:
        """``[N, channels, H, W]``, ``[N, code_dim]`` -> ``[N, out_channels, 2H, 2W]``."""
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        scale, shift = self.film(code)[..., None, None].chunk(2, dim=1)
        x = F.gelu(self.norm(self.conv(x)) * (1 + scale) + shift)
        return F.pixel_shuffle(self.up(x), 2)


class StillEncoder(nn.Module):
    """The image encoder of the reference baseline: a still -> a code, and a feature map at each resolution.

    Args:
        channels: of the generator, from the lowest resolution to the highest.
        code_dim: size of the code.
    """

    def __init__(self, channels: tuple[int, ...], code_dim: int) -> None:
        super().__init__()
        widths = channels[::-1]
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.code = nn.Linear(widths[-1], code_dim)

    def forward(self, still: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[B, 3, S, S]`` -> code ``[B, code_dim]``, and feature maps from the lowest resolution to the highest."""
        maps = [F.gelu(self.stem(still))]
        for conv in self.down:
            maps.append(F.gelu(conv(maps[-1])))
        return self.code(maps[-1].mean((2, 3))), maps[::-1]


class Generator(nn.Module):
    """Generates frames from codes, each frame independently, so that memory does not grow with the length.

    The reference baseline (``config.reference``) is the same network with a ``StillEncoder``, whose feature maps are
    concatenated at each resolution.

    Args:
        config: of the generator.
        size: S.
        identity_dim: D.
        emotion_dim: E.
        content_dim: C.
    """

    def __init__(
        self, config: GeneratorConfig, size: int, identity_dim: int, emotion_dim: int, content_dim: int
    ) -> None:
        super().__init__()
        channels = config.channels
        self.noise_dim = config.noise_dim
        self.checkpointing = False  # activation checkpointing of the blocks; set by training
        self.base = size // 2 ** (len(channels) - 1)
        self.code_dim = 2 * channels[0]
        self.still = StillEncoder(channels, self.code_dim) if config.reference else None
        self.mix = nn.Sequential(
            nn.Linear(identity_dim + emotion_dim + content_dim + config.noise_dim, self.code_dim), nn.GELU(),
            nn.Linear(self.code_dim, self.code_dim), nn.GELU(),
        )  # fmt: skip
        self.constant = nn.Linear(self.code_dim, channels[0] * self.base**2)
        skips = channels if config.reference else (0,) * len(channels)
        self.blocks = nn.ModuleList(
            ModulatedBlock(a, b, self.code_dim, s)
            for a, b, s in zip(channels[:-1], channels[1:], skips[:-1], strict=True)
        )
        self.out = nn.Conv2d(channels[-1] + skips[-1], 3, 3, padding=1)
        self.identity_scale = math.sqrt(identity_dim)  # gives the entries of a unit vector unit variance

    def forward(
        self, identity: Tensor, emotion: Tensor, content: Tensor, noise: Tensor, still: Tensor | None = None
    ) -> Tensor:
        """Generates the frames of clips.

        Args:
            identity: ``[B, D]``, unit length.
            emotion: ``[B, E]``.
            content: ``[B, T, C]``.
            noise: ``[B, T, Z]``.
            still: ``[B, 3, S, S]`` in [-1, 1], for the reference baseline only.

        Returns:
            float32 ``[B, T, 3, S, S]`` in [-1, 1], also under autocast.

        Raises:
            ValueError: the reference baseline gets no still, or another generator gets one.
        """
        if (still is None) != (self.still is None):
            raise ValueError(
                "the reference baseline needs a still of the speaker"
                if still is None
                else "only the reference baseline takes a still"
            )
        b, t = content.shape[:2]
        clip_code = torch.cat([identity * self.identity_scale, emotion], dim=-1)[:, None].expand(-1, t, -1)
        code = self.mix(torch.cat([clip_code, content, noise], dim=-1))
        maps: list[Tensor | None] = [None] * (len(self.blocks) + 1)
        if self.still is not None and still is not None:
            still_code, still_maps = self.still(still)
            code = code + still_code[:, None]
            maps = [m.repeat_interleave(t, 0) for m in still_maps]
        code = code.flatten(0, 1)
        x = self.constant(code).view(b * t, -1, self.base, self.base)
        for block, skip in zip(self.blocks, maps[:-1], strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, code, skip, use_reentrant=False)
            else:
                x = block(x, code, skip)
        x = F.gelu(x)
        last = maps[-1]
        x = self.out(x if last is None else torch.cat([x, last], dim=1))
        frames: Tensor = torch.tanh(x.float()).unflatten(0, (b, t))
        return frames


class NoiseSequence:
    """Noise of clips with unit variance and correlation over time (AR(1), about half a second).

    Motion that speech does not determine (blinks, sway) is smooth, so its source is smooth as well; Vougioukas et
    al. 2019 process white noise with a GRU for this purpose. It is drawn frame by frame, so that chunks of any
    length give the same sequence.

    Args:
        batch: B.
        dim: Z.
        generator: random generator, on the CPU.
        persistence: correlation of consecutive frames.
    """

    def __init__(self, batch: int, dim: int, generator: torch.Generator, persistence: float = 0.9) -> None:
        self.persistence, self.generator = persistence, generator
        self.last = torch.randn(batch, dim, generator=generator)

    def draw(self, frames: int) -> Tensor:
        """Returns the next frames of the sequence, ``[B, frames, Z]``."""
        drawn = []
        for _ in range(frames):
            white = torch.randn(self.last.shape, generator=self.generator)
            self.last = self.persistence * self.last + math.sqrt(1 - self.persistence**2) * white
            drawn.append(self.last)
        return torch.stack(drawn, dim=1)


class Speech2Video(nn.Module):
    """Student and generator: the model that the GAN trains, and that bundles contain.

    Args:
        recipe: config of both.
        identity_dim: D of the identity teacher.
        emotions: labels of the emotion teacher.
    """

    def __init__(self, recipe: Recipe, identity_dim: int, emotions: tuple[str, ...]) -> None:
        super().__init__()
        self.student = Student(recipe.student, identity_dim, emotions)
        self.generator = Generator(
            recipe.gan.generator,
            recipe.media.size,
            identity_dim,
            recipe.student.emotion_dim,
            recipe.student.content_dim,
        )
        self.reference = recipe.gan.generator.reference

    def forward(
        self, speech: Tensor, speech_mask: Tensor, start: Tensor, noise: Tensor, still: Tensor | None = None
    ) -> tuple[Tensor, StudentOutput]:
        """Generates the windows of a training batch.

        Args:
            speech: ``[B, L * 640]``.
            speech_mask: bool ``[B, L]``, False where the speech is padding.
            start: ``[B]``, first frame of the window.
            noise: ``[B, T, Z]``; its length is that of the window.
            still: ``[B, 3, S, S]``, used by the reference baseline only.

        Returns:
            frames ``[B, T, 3, S, S]`` in [-1, 1], and the output of the student.
        """
        codes = self.student(speech, speech_mask)
        index = start[:, None] + torch.arange(noise.shape[1], device=start.device)
        content = codes.content.gather(1, index[..., None].expand(-1, -1, codes.content.shape[2]))
        return self.generator(codes.identity, codes.emotion, content, noise, still if self.reference else None), codes

    def distilled(self) -> list[nn.Parameter]:
        """Returns the parameters that distillation trains and that the GAN does not change."""
        return [*self.student.identity.parameters(), *self.student.emotion.parameters()]
