"""Networks that judge frames, sequences, sync and emotion. Their losses and schedules stand in ``losses`` and ``training``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


def _down(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(spectral_norm(nn.Conv2d(channels, out_channels, 4, stride=2, padding=1)), nn.LeakyReLU(0.2))


class FrameNetwork(nn.Module):
    """Is this frame real, and this person's? A projection discriminator (Miyato and Koyama 2018) on the identity code."""

    def __init__(self, width: int, identity_dim: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _down(3, width), _down(width, 2 * width), _down(2 * width, 4 * width), _down(4 * width, 4 * width)
        )
        self.local = spectral_norm(nn.Conv2d(4 * width, 1, 3, padding=1))
        self.who = spectral_norm(nn.Linear(identity_dim, 4 * width, bias=False))

    def forward(self, frames: Tensor, identity: Tensor) -> Tensor:
        """``[N, 3, S, S]``, ``[N, D]`` -> logits ``[N, h, w]``, one for each patch."""
        x = self.features(frames)
        match = (x.mean((2, 3)) * self.who(identity)).sum(-1)
        return self.local(x)[:, 0] + match[:, None, None]


class SequenceNetwork(nn.Module):
    """Does this sequence move as real ones do? Sees differences of frames, so that it cannot lean on looks, at half size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame = nn.Sequential(_down(6, width), _down(width, 2 * width), _down(2 * width, 4 * width))
        self.time = nn.Sequential(
            spectral_norm(nn.Conv1d(4 * width, 4 * width, 3, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv1d(4 * width, 4 * width, 3, padding=1)), nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv1d(4 * width, 1, 1)),
        )  # fmt: skip

    def forward(self, frames: Tensor) -> Tensor:
        """``[B, T, 3, S, S]`` -> logits ``[B, T - 1]``."""
        b, t = frames.shape[:2]
        small = F.avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, (b, t))
        pair = torch.cat([small[:, 1:] - small[:, :-1], small[:, 1:]], dim=2)
        x = self.frame(pair.flatten(0, 1)).mean((2, 3)).unflatten(0, (b, t - 1))
        return self.time(x.transpose(1, 2))[:, 0]


class EmotionNetwork(nn.Module):
    """Which emotion does the face show? K emotions and, last, "generated" (Eskimez et al. 2021, emotalkingface)."""

    def __init__(self, width: int, emotions: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _down(3, width), _down(width, 2 * width), _down(2 * width, 4 * width), _down(4 * width, 4 * width)
        )
        self.classify = nn.Linear(4 * width, emotions + 1)

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 3, S, S]`` -> logits ``[N, K + 1]``."""
        return self.classify(self.features(frames).mean((2, 3)))
