"""The generator: identity, emotion, content and noise to frames; and the whole model, speech to video.

Shape suffixes: B clips, T frames, D identity, E emotion, C content, Z noise, S side of the picture.
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

    Pixel shuffle rather than upsampling before the convolution: a quarter of the arithmetic at the same resolution.
    """

    def __init__(self, channels: int, out_channels: int, code_dim: int, skip_channels: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + skip_channels, channels, 3, padding=1)
        self.norm = nn.GroupNorm(max(1, channels // 16), channels, affine=False)
        self.film = nn.Linear(code_dim, 2 * channels)
        self.up = nn.Conv2d(channels, 4 * out_channels, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        scale, shift = self.film(code)[..., None, None].chunk(2, dim=1)
        x = F.gelu(self.norm(self.conv(x)) * (1 + scale) + shift)
        return F.pixel_shuffle(self.up(x), 2)


class StillEncoder(nn.Module):
    """The reference baseline's image encoder: a still -> a code and a feature map at each resolution."""

    def __init__(self, channels: tuple[int, ...], code_dim: int) -> None:
        super().__init__()
        rising = channels[::-1]
        self.stem = nn.Conv2d(3, rising[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(rising[:-1], rising[1:], strict=True)
        )
        self.code = nn.Linear(rising[-1], code_dim)

    def forward(self, still: Tensor) -> tuple[Tensor, list[Tensor]]:
        """``[B, 3, S, S]`` -> code ``[B, code_dim]`` and maps from the smallest (4 pixels) to the largest."""
        maps = [F.gelu(self.stem(still))]
        for conv in self.down:
            maps.append(F.gelu(conv(maps[-1])))
        return self.code(maps[-1].mean((2, 3))), maps[::-1]


class Generator(nn.Module):
    """Codes to frames, frame by frame, so that a clip of any length takes constant memory.

    The reference baseline (``config.reference``) is the same network with a ``StillEncoder`` whose maps are
    concatenated at each resolution.
    """

    def __init__(
        self, config: GeneratorConfig, size: int, identity_dim: int, emotion_dim: int, content_dim: int
    ) -> None:
        super().__init__()
        channels = config.channels
        self.noise_dim = config.noise_dim
        self.checkpointing = False  # whether blocks keep only their inputs for the gradients; set by training
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
        self.identity_scale = math.sqrt(
            identity_dim
        )  # a unit vector's entries are small; this makes them of unit variance

    def forward(
        self, identity: Tensor, emotion: Tensor, content: Tensor, noise: Tensor, still: Tensor | None = None
    ) -> Tensor:
        """Frames of a clip.

        Args:
            identity: ``[B, D]``, unit length. emotion: ``[B, E]``. content: ``[B, T, C]``. noise: ``[B, T, Z]``.
            still: ``[B, 3, S, S]`` in [-1, 1]; the reference baseline needs it, the others refuse it.

        Returns:
            float32 ``[B, T, 3, S, S]`` in [-1, 1], also under autocast.
        """
        if (still is None) != (self.still is None):
            raise ValueError(
                "the reference baseline needs a still of the speaker"
                if still is None
                else "only the reference baseline takes a still"
            )
        b, t = content.shape[:2]
        who = torch.cat([identity * self.identity_scale, emotion], dim=-1)[:, None].expand(-1, t, -1)
        code = self.mix(torch.cat([who, content, noise], dim=-1))
        maps: list[Tensor | None] = [None] * (len(self.blocks) + 1)
        if self.still is not None and still is not None:
            still_code, found = self.still(still)
            code = code + still_code[:, None]
            maps = [m.repeat_interleave(t, 0) for m in found]
        code = code.flatten(0, 1)
        x = self.constant(code).view(b * t, -1, self.base, self.base)
        for block, skip in zip(self.blocks, maps[:-1], strict=True):
            x = (
                checkpoint(block, x, code, skip, use_reentrant=False)
                if self.checkpointing and torch.is_grad_enabled()
                else block(x, code, skip)
            )
        x = F.gelu(x)
        last = maps[-1]
        x = self.out(x if last is None else torch.cat([x, last], dim=1))
        return torch.tanh(x.float()).unflatten(0, (b, t))


class NoiseSequence:
    """The noise of a clip: unit variance, correlated over time (AR(1), about half a second), seeded.

    What speech does not determine (blinks, sway) moves smoothly, so its source must; Vougioukas et al. 2019 pass white
    noise through a GRU to the same end. It is drawn frame by frame, so that chunks of any length give one sequence.
    """

    def __init__(self, batch: int, dim: int, generator: torch.Generator, persistence: float = 0.9) -> None:
        self.persistence, self.generator = persistence, generator
        self.last = torch.randn(batch, dim, generator=generator)

    def draw(self, frames: int) -> Tensor:
        """The next ``[B, frames, Z]``."""
        drawn = []
        for _ in range(frames):
            fresh = torch.randn(self.last.shape, generator=self.generator)
            self.last = self.persistence * self.last + math.sqrt(1 - self.persistence**2) * fresh
            drawn.append(self.last)
        return torch.stack(drawn, dim=1)


class Speech2Video(nn.Module):
    """Student and generator: the model that is trained by the GAN, saved in a bundle and served."""

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
        self, speech: Tensor, heard: Tensor, start: Tensor, noise: Tensor, still: Tensor | None = None
    ) -> tuple[Tensor, StudentOutput]:
        """The window of a training batch.

        Args:
            speech: ``[B, L * 640]``. heard: ``[B, L]``. start: ``[B]``, first frame of the window.
            noise: ``[B, T, Z]``, which also says how long the window is. still: ``[B, 3, S, S]`` for the reference baseline.

        Returns:
            frames ``[B, T, 3, S, S]`` in [-1, 1], and what was heard.
        """
        codes = self.student(speech, heard)
        index = start[:, None] + torch.arange(noise.shape[1], device=start.device)
        content = codes.content.gather(1, index[..., None].expand(-1, -1, codes.content.shape[2]))
        return self.generator(codes.identity, codes.emotion, content, noise, still if self.reference else None), codes

    def distilled(self) -> list[nn.Parameter]:
        """The parameters that distillation has trained and that the GAN leaves alone."""
        return [*self.student.identity.parameters(), *self.student.emotion.parameters()]
