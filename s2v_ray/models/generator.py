"""The generator: from identity, emotion, take latent, content and motion code to frames.

Shapes: B clips, T frames, D identity, E emotion, Z take latent, C content, M motion code, S side of a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from s2v_ray.config import GeneratorConfig


@dataclass
class ClipCodes:
    """Inputs of the generator that are constant over a clip.

    Attributes:
        identity: ``[B, D]``, unit length.
        emotion: ``[B, E]``.
        take: ``[B, Z]``; the reference baseline ignores it.
        still: ``[B, 3, S, S]`` in [-1, 1], for the reference baseline only.
    """

    identity: Tensor
    emotion: Tensor
    take: Tensor | None = None
    still: Tensor | None = None


GRAIN_SIZES = (1, 2)
"""Sides of the grains of noise, pixels."""
INITIAL_NOISE = 0.05


class ModulatedBlock(nn.Module):
    """1x1 convolution, pixel shuffle to twice the side, then a residual 3x3 convolution modulated by the codes.

    The modulation is FiLM (Perez et al. 2018). The 3x3 convolution follows the shuffle, with a quarter of the channels:
    half the arithmetic of a 3x3 convolution before the shuffle, and it can smooth the shuffle's pattern.

    Args:
        channels: of the input.
        out_channels: of the output.
        code_dim: size of the code.
        skip_channels: channels that are concatenated to the input.
    """

    def __init__(self, channels: int, out_channels: int, code_dim: int, skip_channels: int = 0) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels + skip_channels, 4 * out_channels, 1)
        self.norm = nn.GroupNorm(max(1, out_channels // 16), out_channels, affine=False)
        self.film = nn.Linear(code_dim, 2 * out_channels)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        # The same weights for the four pixels of a shuffle (ICNR, Aitken et al. 2017): no checkerboard at the start.
        with torch.no_grad():
            self.expand.weight.copy_(self.expand.weight[::4].repeat_interleave(4, 0))

    def forward(self, x: Tensor, code: Tensor, skip: Tensor | None = None) -> Tensor:
        """``[N, channels, H, W]``, ``[N, code_dim]`` -> ``[N, out_channels, 2H, 2W]``."""
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        x = F.pixel_shuffle(self.expand(x), 2)
        scale, shift = self.film(code)[..., None, None].chunk(2, dim=1)
        y: Tensor = x + self.conv(F.gelu(self.norm(x) * (1 + scale) + shift))
        return y


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
    concatenated at each resolution; the still replaces the take latent.

    Noise is added to the features of the highest resolution, with a learnt scale per channel (StyleGAN, Karras et al.
    2019, section 3.2). It carries what changes from frame to frame at random: the grain of the camera and the errors of
    its video codec.

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
        self.checkpointing = False  # activation checkpointing of the blocks; set by training
        self.base = size // 2 ** (len(channels) - 1)
        self.code_dim = 2 * channels[0]
        self.still = StillEncoder(channels, self.code_dim) if config.reference else None
        self.take_dim = 0 if config.reference else config.take_dim
        self.take_shapes = [] if config.reference else config.take_shapes(size)
        self.mix = nn.Sequential(
            nn.Linear(identity_dim + emotion_dim + self.take_dim + content_dim + config.motion_dim, self.code_dim),
            nn.GELU(), nn.Linear(self.code_dim, self.code_dim), nn.GELU(),
        )  # fmt: skip
        self.constant = nn.Linear(self.code_dim + self.take_dim, channels[0] * self.base**2)
        skips = channels if config.reference else self._map_channels(len(channels))
        self.blocks = nn.ModuleList(
            ModulatedBlock(a, b, self.code_dim, s)
            for a, b, s in zip(channels[:-1], channels[1:], skips[:-1], strict=True)
        )
        self.noise = nn.Parameter(torch.full((len(GRAIN_SIZES), channels[-1]), INITIAL_NOISE))
        self.out = nn.Conv2d(channels[-1] + skips[-1], 3, 3, padding=1)
        self.identity_scale = math.sqrt(identity_dim)  # gives the entries of a unit vector unit variance

    def forward(self, codes: ClipCodes, content: Tensor, motion: Tensor, noise: Tensor | None = None) -> Tensor:
        """Generates the frames of clips.

        Args:
            codes: constant over each clip.
            content: ``[B, T, C]``.
            motion: ``[B, T, M]``.
            noise: ``[B, T, 1, S, S]``, standard normal, or ``[V, B, T, 1, S, S]`` for V versions of the frames, which
                cost little more than one; None is the same as zeros.

        Returns:
            float32 ``[B, T, 3, S, S]`` or ``[V, B, T, 3, S, S]`` in [-1, 1], also under autocast.

        Raises:
            ValueError: the reference baseline gets no still, or another generator gets one or no take.
        """
        self._check(codes)
        b, t = content.shape[:2]
        take, take_maps = self._split(codes)
        constant = torch.cat([codes.identity * self.identity_scale, codes.emotion, take], dim=-1)
        code = self.mix(torch.cat([constant[:, None].expand(-1, t, -1), content, motion], dim=-1))
        maps: list[Tensor | None] = [None] * (len(self.blocks) + 1)
        if self.still is not None and codes.still is not None:
            still_code, still_maps = self.still(codes.still)
            code = code + still_code[:, None]
            maps = [m.repeat_interleave(t, 0) for m in still_maps]
        for m in take_maps:
            maps[self._level(m.shape[-1])] = m.repeat_interleave(t, 0)
        # The take also reaches the first feature map by a linear layer alone, through which it is learnt faster.
        start = torch.cat([code, take[:, None].expand(-1, t, -1)], dim=-1)
        x = self.constant(start).view(b * t, -1, self.base, self.base)
        code = code.flatten(0, 1)
        for block, skip in zip(self.blocks, maps[:-1], strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, code, skip, use_reentrant=False)
            else:
                x = block(x, code, skip)
        # All versions in one call of each layer: ZeRO-3 does not support several calls in a forward.
        if noise is not None:
            x = torch.cat([x + self._grain(version) for version in noise.reshape(-1, *noise.shape[-5:])])
        x, last = F.gelu(x), maps[-1]
        if last is not None:
            x = torch.cat([x, last.repeat(len(x) // len(last), 1, 1, 1)], dim=1)
        frames: Tensor = torch.tanh(self.out(x).float()).unflatten(0, (-1, b, t))
        return frames if noise is not None and noise.dim() == 6 else frames[0]

    def _split(self, codes: ClipCodes) -> tuple[Tensor, list[Tensor]]:
        """Splits the take latent into its vector ``[B, take_dim]`` and its maps ``[B, c, H, W]``.

        Those of the reference baseline are empty.
        """
        if codes.take is None or not self.take_dim:
            return codes.identity[:, :0], []
        sizes = [math.prod(shape) for shape in self.take_shapes]
        vector, *maps = codes.take.split([self.take_dim, *sizes], dim=1)
        return vector, [m.unflatten(1, shape) for m, shape in zip(maps, self.take_shapes, strict=True)]

    def _level(self, side: int) -> int:
        """Block whose input has this side."""
        level: int = (side // self.base).bit_length() - 1
        return level

    def _map_channels(self, levels: int) -> tuple[int, ...]:
        channels = {self._level(shape[1]): shape[0] for shape in self.take_shapes}
        return tuple(channels.get(level, 0) for level in range(levels))

    def _grain(self, noise: Tensor) -> Tensor:
        """``[B, T, 1, S, S]`` -> what is added to the features, ``[B * T, c, S, S]``."""
        noise = noise.flatten(0, 1)
        total = torch.zeros((), device=noise.device)
        for size, scale in zip(GRAIN_SIZES, self.noise, strict=True):
            coarse = size * F.avg_pool2d(noise, size)  # of unit variance again
            total = total + F.interpolate(coarse, scale_factor=size) * scale[:, None, None]
        return total

    def _check(self, codes: ClipCodes) -> None:
        if (codes.still is None) != (self.still is None):
            raise ValueError(
                "the reference baseline needs a still of the speaker"
                if codes.still is None
                else "only the reference baseline takes a still"
            )
        if self.take_dim and codes.take is None:
            raise ValueError("the generator needs a take latent: sample one from the prior, or encode a picture")
