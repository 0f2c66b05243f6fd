"""Networks of the discriminators; their losses and schedules are in ``losses`` and ``training.tasks.adversaries``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

HIGH_PASS_GAIN = 4.0


class PatchNetwork(nn.Module):
    """Convolutions that classify patches of a picture as real or generated (PatchGAN, Isola et al. 2017).

    Its input is the picture and, amplified, its difference to a 3 x 3 mean: blur and mottle are small in amplitude and
    are found late in RGB alone. Layers have group norm and no spectral norm, which kept the discriminator at chance.

    Args:
        width: channels of the first layer.
        layers: number of layers, each with stride 2.
        channels: of what ``expand`` makes of a picture.
    """

    def __init__(self, width: int, layers: int, channels: int = 6) -> None:
        super().__init__()
        widths = [channels, *(width * min(2**i, 4) for i in range(layers))]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 4, stride=2, padding=1, bias=i == 0),
                nn.GroupNorm(4, b) if i else nn.Identity(),
                nn.LeakyReLU(0.2),
            )
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        self.channels = widths[-1]
        self.local = nn.Conv2d(self.channels, 1, 3, padding=1)

    def expand(self, pictures: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, 6, H, W]``, the input of the first layer."""
        return torch.cat([pictures, high_pass(pictures)], dim=1)

    def features(self, pictures: Tensor) -> list[Tensor]:
        """``[N, 3, H, W]`` in [-1, 1] -> outputs of all layers, the first layer's first."""
        x = self.expand(pictures)
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found


class FrameNetwork(PatchNetwork):
    """Classifies patches of frames, given the identity: a projection discriminator (Miyato and Koyama 2018).

    Args:
        width: channels of the first layer.
        identity_dim: D of the identity code.
    """

    def __init__(self, width: int, identity_dim: int) -> None:
        super().__init__(width, 4)
        self.who = nn.Linear(identity_dim, self.channels, bias=False)

    def logits(self, features: Tensor, identity: Tensor) -> Tensor:
        """Output of the last layer ``[N, C, h, w]`` and identity ``[N, D]`` -> logits ``[N, h, w]``, one per patch."""
        projection = (features.mean((2, 3)) * self.who(identity)).sum(-1)
        logits: Tensor = self.local(features)[:, 0] + projection[:, None, None]
        return logits

    def forward(self, frames: Tensor, identity: Tensor) -> Tensor:
        """``[N, 3, S, S]``, ``[N, D]`` -> logits ``[N, h, w]``."""
        return self.logits(self.features(frames)[-1], identity)


class UnconditionalNetwork(PatchNetwork):
    """Classifies patches of pictures, whoever they show."""

    def logits(self, features: Tensor) -> Tensor:
        """Output of the last layer ``[N, C, h, w]`` -> logits ``[N, h, w]``, one per patch."""
        logits: Tensor = self.local(features)[:, 0]
        return logits

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures, as ``expand`` takes them -> logits of their patches."""
        return self.logits(self.features(pictures)[-1])


class MouthNetwork(UnconditionalNetwork):
    """Classifies patches of the mouth region: ``[N, 3, h, w]``.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 3)


class MotionNetwork(UnconditionalNetwork):
    """Classifies patches of three consecutive frames: the middle one and, amplified, its differences to the others.

    The differences show how much and how a face moves, and the grain of the camera; a single frame shows neither.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, 4, channels=9)

    def expand(self, pictures: Tensor) -> Tensor:
        """``[N, 9, H, W]``, three frames -> ``[N, 9, H, W]``."""
        before, middle, after = pictures.chunk(3, dim=1)
        return torch.cat([middle, HIGH_PASS_GAIN * (middle - before), HIGH_PASS_GAIN * (after - middle)], dim=1)


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


def high_pass(pictures: Tensor) -> Tensor:
    """Computes ``HIGH_PASS_GAIN`` times the difference of ``[N, C, H, W]`` to its 3 x 3 mean (reflected borders)."""
    mean = F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    return HIGH_PASS_GAIN * (pictures - mean)


def _down(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(spectral_norm(nn.Conv2d(channels, out_channels, 4, stride=2, padding=1)), nn.LeakyReLU(0.2))
