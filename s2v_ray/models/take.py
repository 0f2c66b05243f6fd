"""The take latent and the motion code: what a recording looks like beyond what speech determines.

A take is one recording of a person: head pose, hair, clothes, light and camera as they were then. The take latent is
constant over a clip, the motion code changes from frame to frame (blinks, sway). Both are learnt as a conditional
variational autoencoder (Kingma and Welling 2014; Sohn et al. 2015): ``TakeEncoder`` is the posterior, ``TakePrior`` and
``MotionPrior`` replace it where only speech is known.

Shapes: B clips, N frames, T frames of a sequence, D identity, E emotion, Z take latent, M motion code, S side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray.config import GeneratorConfig
from s2v_ray.media.mouth import mouth_mask

LOG_VARIANCE_RANGE = (-8.0, 4.0)
INITIAL_LOG_VARIANCE = -4.0
"""With a variance of 1, samples of the posterior are noise at first, and the generator learns to ignore them."""
IDENTITY_NOISE = 0.5
"""Standard deviation of the noise on the identity (entries of unit variance) while the prior is fitted. Without it the
prior could recognise training clips by the small differences between the codes of one voice."""
EMOTION_NOISE = 0.1
CROSSFADE_FRAMES = 8
"""Frames over which one trajectory of the motion prior turns into the next."""


@dataclass
class Posterior:
    """Diagonal Gaussian posteriors of single frames, float32.

    Attributes:
        take_mean: ``[B, N, Z]``.
        take_log_variance: ``[B, N, Z]``.
        motion_mean: ``[B, N, M]``, not yet relative to the reference frames.
        motion_log_variance: ``[B, N, M]``.
    """

    take_mean: Tensor
    take_log_variance: Tensor
    motion_mean: Tensor
    motion_log_variance: Tensor


class TakeEncoder(nn.Module):
    """Posterior of take latent and motion code, from frames with the mouth blanked.

    The mouth is blanked so that its shape can reach the generator through the content only.

    Args:
        config: of the generator.
        size: S.
    """

    mask: Tensor

    def __init__(self, config: GeneratorConfig, size: int) -> None:
        super().__init__()
        width = config.take_width
        widths = (3, width, 2 * width, 4 * width, 4 * width)
        self.features = nn.Sequential(
            *(
                layer
                for a, b in zip(widths[:-1], widths[1:], strict=True)
                for layer in (nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), nn.GroupNorm(4, b), nn.GELU())
            )
        )
        self.dims = (config.take_dim, config.take_dim, config.motion_dim, config.motion_dim)
        hidden = 4 * width
        last = nn.Linear(hidden, sum(self.dims))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(hidden * (size // 16) ** 2, hidden), nn.GELU(), last)
        with torch.no_grad():
            _, take, _, motion = last.bias.split(self.dims)
            take.fill_(INITIAL_LOG_VARIANCE)
            motion.fill_(INITIAL_LOG_VARIANCE)
        self.register_buffer("mask", mouth_mask(size).clone(), persistent=False)

    def forward(self, frames: Tensor) -> Posterior:
        """``[B, N, 3, S, S]`` in [-1, 1] -> posterior of each frame."""
        shown = frames.flatten(0, 1) * (1.0 - self.mask)
        parts = self.head(self.features(shown)).float().unflatten(0, frames.shape[:2]).split(self.dims, dim=-1)
        low, high = LOG_VARIANCE_RANGE
        return Posterior(parts[0], parts[1].clamp(low, high), parts[2], parts[3].clamp(low, high))


class TakePrior(nn.Module):
    """``p(take | identity, emotion)``: a Gaussian with full covariance whose parameters a small network predicts.

    It is fitted to samples of the posterior by maximum likelihood. N(0, I) in its place gives takes unlike any in the
    corpus, because the posterior is only weakly drawn to it.

    Args:
        identity_dim: D.
        emotion_dim: E.
        config: of the generator.
    """

    rows: Tensor

    def __init__(self, identity_dim: int, emotion_dim: int, config: GeneratorConfig) -> None:
        super().__init__()
        self.dim = config.take_dim
        self.identity_scale = math.sqrt(identity_dim)
        rows = torch.tril_indices(self.dim, self.dim)
        self.register_buffer("rows", rows, persistent=False)
        last = nn.Linear(64, self.dim + rows.shape[1])
        self.network = nn.Sequential(nn.Linear(identity_dim + emotion_dim, 64), nn.GELU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, identity: Tensor, emotion: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, D]``, ``[B, E]`` -> mean ``[B, Z]`` and lower Cholesky factor of the covariance ``[B, Z, Z]``."""
        outputs = self.network(torch.cat([identity * self.identity_scale, emotion], dim=-1)).float()
        mean, entries = outputs[:, : self.dim], outputs[:, self.dim :]
        lower = torch.zeros(len(mean), self.dim, self.dim, device=mean.device)
        lower[:, self.rows[0], self.rows[1]] = entries
        diagonal = F.softplus(lower.diagonal(dim1=1, dim2=2) + math.log(math.e - 1)) + 1e-3  # 1 at initialisation
        return mean, lower.tril(-1) + torch.diag_embed(diagonal)

    def sample(self, identity: Tensor, emotion: Tensor, white: Tensor) -> Tensor:
        """Turns white noise ``[B, Z]`` into takes ``[B, Z]``."""
        mean, lower = self(identity, emotion)
        take: Tensor = mean + (lower @ white[..., None])[..., 0]
        return take

    def negative_log_likelihood(self, take: Tensor, identity: Tensor, emotion: Tensor, white: Tensor) -> Tensor:
        """Mean over clips of ``-log p(take | identity, emotion)`` in nats.

        Only the prior gets a gradient. ``white`` ``[B, D + E]``, standard normal, becomes noise on the codes.
        """
        noise = white.split([identity.shape[1], emotion.shape[1]], dim=1)
        noisy = identity.detach() + noise[0] * (IDENTITY_NOISE / self.identity_scale)
        mean, lower = self(noisy, emotion.detach() + EMOTION_NOISE * noise[1])
        residual = (take.detach() - mean)[..., None]
        standard = torch.linalg.solve_triangular(lower, residual, upper=False)[..., 0]
        log_scale = lower.diagonal(dim1=1, dim2=2).log().sum(-1)
        nll: Tensor = 0.5 * standard.square().sum(-1) + log_scale + 0.5 * self.dim * math.log(2 * math.pi)
        return nll.mean()


class MotionPrior(nn.Module):
    """Trajectories of the motion code of training clips, from which motion is drawn segment by segment.

    A Gaussian autoregressive process moves too little and does not blink: blinks are rare and large. Recorded
    trajectories have the right distribution by construction. They describe motion relative to a mean pose, not looks.

    Args:
        config: of the generator.
    """

    trajectories: Tensor
    lengths: Tensor

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.register_buffer("trajectories", torch.zeros(config.motion_clips, config.motion_frames, config.motion_dim))
        self.register_buffer("lengths", torch.zeros(config.motion_clips, dtype=torch.int64))

    def fill(self, clips: list[Tensor]) -> None:
        """Stores the motion codes ``[T, M]`` of clips, each relative to its mean and cut to the longest length."""
        self.trajectories.zero_()
        self.lengths.zero_()
        for i, codes in enumerate(clips[: len(self.lengths)]):
            part = codes[: self.trajectories.shape[1]]
            self.trajectories[i, : len(part)] = part - part.mean(0)
            self.lengths[i] = len(part)

    def segment(self, random: torch.Generator) -> Tensor:
        """Draws a trajectory ``[T, M]``; one frame of zeros if none is stored."""
        stored = int((self.lengths > 0).sum())
        if not stored:
            return torch.zeros(1, self.trajectories.shape[2])
        i = int(torch.randint(stored, (1,), generator=random))
        return self.trajectories[i, : int(self.lengths[i])].cpu()


class NoiseSequence:
    """The noise of the frames of one clip, drawn frame by frame, so that chunks of any length give the same noise.

    Args:
        size: S.
        random: random generator, on the CPU.
    """

    def __init__(self, size: int, random: torch.Generator) -> None:
        self.size, self.random = size, random

    def draw(self, frames: int) -> Tensor:
        """Returns standard normal noise of the next frames, ``[1, frames, 1, S, S]``."""
        drawn = [torch.randn(1, self.size, self.size, generator=self.random) for _ in range(frames)]
        return torch.stack(drawn)[None]


class MotionSequence:
    """The motion code of one clip of any length, drawn frame by frame.

    Segments of the prior follow each other and are cross-faded. Chunks of any length give the same sequence.

    Args:
        prior: the motion prior.
        random: random generator, on the CPU.
    """

    def __init__(self, prior: MotionPrior, random: torch.Generator) -> None:
        self.prior, self.random = prior, random
        self.ready = prior.segment(random)

    def draw(self, frames: int) -> Tensor:
        """Returns the next frames of the sequence, ``[1, frames, M]``."""
        while len(self.ready) < frames + CROSSFADE_FRAMES:
            self.ready = _join(self.ready, self.prior.segment(self.random))
        drawn, self.ready = self.ready[:frames], self.ready[frames:]
        return drawn[None]


def _join(first: Tensor, second: Tensor) -> Tensor:
    """Concatenates trajectories ``[T, M]`` with a linear cross-fade."""
    n = min(CROSSFADE_FRAMES, len(first), len(second))
    weight = (torch.arange(1, n + 1) / (n + 1))[:, None]
    mixed = first[-n:] * (1 - weight) + second[:n] * weight
    joined = torch.cat([first[:-n], mixed, second[n:]])
    return joined if len(joined) > len(first) else torch.cat([first, second])


def reparametrise(mean: Tensor, log_variance: Tensor, white: Tensor) -> Tensor:
    """Sample of a diagonal Gaussian for white noise of the same shape."""
    return mean + (0.5 * log_variance).exp() * white


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mean, exp(log_variance)) || N(0, I))`` in nats, summed over the last dimension, mean over the others."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1).mean()
