"""Networks of the discriminators; their losses and schedules are in ``losses`` and ``training.tasks.adversaries``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


def _down(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(spectral_norm(nn.Conv2d(channels, out_channels, 4, stride=2, padding=1)), nn.LeakyReLU(0.2))


class FrameNetwork(nn.Module):
    """Classifies patches as real or generated, given the identity: a projection discriminator (Miyato and Koyama 2018).

    Args:
        width: channels of the first layer.
        identity_dim: D of the identity code.
    """

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
        projection = (x.mean((2, 3)) * self.who(identity)).sum(-1)
        logits: Tensor = self.local(x)[:, 0] + projection[:, None, None]
        return logits


class SequenceNetwork(nn.Module):
    """Classifies pairs of consecutive frames as real or generated, from their differences and at half size.

    The differences make it depend on motion more than on appearance.

    Args:
        width: channels of the first layer.
    """

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
        logits: Tensor = self.time(x.transpose(1, 2))[:, 0]
        return logits


class EmotionNetwork(nn.Module):
    """Classifies frames as one of K emotions or, the last class, as generated (Eskimez et al. 2021, emotalkingface).

    Args:
        width: channels of the first layer.
        emotions: K.
    """

    def __init__(self, width: int, emotions: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _down(3, width), _down(width, 2 * width), _down(2 * width, 4 * width), _down(4 * width, 4 * width)
        )
        self.classify = nn.Linear(4 * width, emotions + 1)

    def forward(self, frames: Tensor) -> Tensor:
        """``[N, 3, S, S]`` -> logits ``[N, K + 1]``."""
        logits: Tensor = self.classify(self.features(frames).mean((2, 3)))
        return logits
