"""The take latent and the motion code: what a recording looks like beyond what speech determines.

A take is one recording of a person: head pose, hair, clothes, light and camera as they were then. The take latent is
constant over a clip, the motion code changes from frame to frame (blinks, sway). Both are learnt as a conditional
variational autoencoder (Kingma and Welling 2014; Sohn et al. 2015): ``TakeEncoder`` and ``MotionEncoder`` are the
posteriors, ``TakePrior`` and ``MotionPrior`` replace them where only speech is known.

Shapes: B clips, N frames, T frames of a sequence, D identity, E emotion, Z take latent, M motion code, S side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray.config import GeneratorConfig
from s2v_ray.media.regions import mouth_mask, upper_mask

LOG_VARIANCE_RANGE = (-8.0, 4.0)
INITIAL_LOG_VARIANCE = -4.0
"""With a variance of 1, samples of the posterior are noise at first, and the generator learns to ignore them."""
SIMILARITY_SCALE = 0.05
"""Difference of the cosine of two identities that makes a clip less likely by a factor e. Codes of one face differ by
a few hundredths."""
EMOTION_SCALE = 0.25
"""Standard deviation of the kernel on the entries of the emotion code, which are in [-1, 1]."""
CROSSFADE_FRAMES = 8
"""Frames over which one trajectory of the motion prior turns into the next."""


class Posterior(NamedTuple):
    """Diagonal Gaussian posteriors of single frames, float32.

    A tuple, in which ZeRO-3 finds the tensors: an encoder is called again on generated frames, and the hook after its
    backward needs that before it.

    Attributes:
        mean: ``[B, N, Z]`` or ``[B, N, M]``; of motion, not yet relative to the reference frames.
        log_variance: of the same shape.
    """

    mean: Tensor
    log_variance: Tensor


class TakeEncoder(nn.Module):
    """Posterior of the take latent, from frames with the mouth blanked.

    The mouth is blanked so that its shape can reach the generator through the content only.

    Args:
        config: of the generator.
        size: S.
    """

    mask: Tensor

    def __init__(self, config: GeneratorConfig, size: int) -> None:
        super().__init__()
        width = config.take_width
        self.features = _convolutions(width)
        self.head = _head(width, size, config.take_dim)
        # From the features of the third and second convolution, as far as there are maps.
        self.maps = nn.ModuleList(
            _map_head(a, c) for a, c in zip((4 * width, 2 * width), config.take_maps, strict=False)
        )
        self.register_buffer("mask", mouth_mask(size).clone(), persistent=False)

    def forward(self, frames: Tensor) -> Posterior:
        """``[B, N, 3, S, S]`` in [-1, 1] -> posterior of each frame."""
        quarter = self.features[:2](frames.flatten(0, 1) * (1.0 - self.mask))
        eighth = self.features[2](quarter)
        found = [self.head(self.features[3](eighth).flatten(1))]
        found += [conv(x) for conv, x in zip(self.maps, (eighth, quarter), strict=False)]
        halves = [x.float().chunk(2, dim=1) for x in found]
        mean, log_variance = (torch.cat([x.flatten(1) for x in half], dim=1) for half in zip(*halves, strict=True))
        return _posterior(mean, log_variance, frames)


class MotionEncoder(nn.Module):
    """Posterior of the motion code, from the upper part of frames: down to the tip of the nose.

    The jaw shows how far the mouth is open. A motion code that contains it moves the mouth where motion is drawn from
    the prior, whatever is said.

    Args:
        config: of the generator.
        size: S.
    """

    mask: Tensor

    def __init__(self, config: GeneratorConfig, size: int) -> None:
        super().__init__()
        self.features = _convolutions(config.take_width)
        self.head = _head(config.take_width, size, config.motion_dim)
        self.register_buffer("mask", upper_mask(size).clone(), persistent=False)

    def forward(self, frames: Tensor) -> Posterior:
        """``[B, N, 3, S, S]`` in [-1, 1] -> posterior of each frame."""
        found = self.head(self.features(frames.flatten(0, 1) * self.mask).flatten(1))
        mean, log_variance = found.float().chunk(2, dim=1)
        return _posterior(mean, log_variance, frames)


@dataclass
class KnownTake:
    """The posterior of the take of a training clip, and the codes it is found by.

    Attributes:
        identity: ``[D]``, unit length: the identity teacher's code of the face, which the student's code approximates.
        emotion: ``[E]``, the student's code of the speech.
        mean: ``[Z]``.
        log_variance: ``[Z]``.
    """

    identity: Tensor
    emotion: Tensor
    mean: Tensor
    log_variance: Tensor


class TakePrior(nn.Module):
    """``p(take | identity, emotion)``: a mixture of the posteriors of training clips with similar codes.

    It is the prior that the evidence lower bound is largest for, the aggregated posterior (Tomczak and Welling 2018),
    here of the clips of one person. A Gaussian in its place gives takes unlike any in the corpus: a few clips with
    another light make it wide in all directions.

    Args:
        identity_dim: D.
        emotion_dim: E.
        config: of the generator.
    """

    identities: Tensor
    emotions: Tensor
    means: Tensor
    scales: Tensor
    stored: Tensor

    def __init__(self, identity_dim: int, emotion_dim: int, config: GeneratorConfig, size: int) -> None:
        super().__init__()
        self.dim = config.take_size(size)
        self.register_buffer("identities", torch.zeros(config.take_clips, identity_dim))
        self.register_buffer("emotions", torch.zeros(config.take_clips, emotion_dim))
        self.register_buffer("means", torch.zeros(config.take_clips, self.dim))
        self.register_buffer("scales", torch.zeros(config.take_clips, self.dim))
        self.register_buffer("stored", torch.tensor(0))

    def fill(self, takes: list[KnownTake]) -> None:
        """Stores the takes of training clips, as many as there is room for."""
        takes = takes[: len(self.means)]
        for i, take in enumerate(takes):
            self.identities[i], self.emotions[i], self.means[i] = take.identity, take.emotion, take.mean
            self.scales[i] = (0.5 * take.log_variance).exp()
        self.stored.fill_(len(takes))

    def mean_codes(self) -> tuple[Tensor, Tensor]:
        """Mean identity ``[D]``, of unit length, and mean emotion ``[E]`` of the stored clips.

        If none are stored, all entries of the identity are equal, and the emotion is 0.
        """
        n = int(self.stored)
        if not n:
            return F.normalize(torch.ones_like(self.identities[0]), dim=0), torch.zeros_like(self.emotions[0])
        return F.normalize(self.identities[:n].mean(0), dim=0), self.emotions[:n].mean(0)

    def sample(self, identity: Tensor, emotion: Tensor, white: Tensor) -> Tensor:
        """Draws takes; from N(0, I) if none are stored.

        Args:
            identity: ``[B, D]``, unit length.
            emotion: ``[B, E]``.
            white: ``[B, 1 + Z]``, standard normal: it chooses the clip, and then the sample of its posterior.

        Returns:
            ``[B, Z]``.
        """
        n = int(self.stored)
        if not n:
            return white[:, 1:]
        distance = torch.cdist(emotion, self.emotions[:n]) / math.sqrt(emotion.shape[1])
        scores = identity @ self.identities[:n].T / SIMILARITY_SCALE - 0.5 * (distance / EMOTION_SCALE).square()
        below = scores.softmax(dim=1).cumsum(dim=1)
        chosen = (below < torch.special.ndtr(white[:, :1])).sum(1).clamp(max=n - 1)
        return self.means[chosen] + self.scales[chosen] * white[:, 1:]


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
        shape = (1, 1, self.size, self.size)
        drawn = [torch.randn(shape, generator=self.random) for _ in range(frames)]
        return torch.cat([torch.zeros(0, *shape[1:]), *drawn])[None]


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


def _convolutions(width: int) -> nn.Sequential:
    """Four convolutions, each to half of the side."""
    widths = (3, width, 2 * width, 4 * width, 4 * width)
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 4, stride=2, padding=1, bias=False), nn.GroupNorm(4, b), nn.GELU())
            for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
    )


def _head(width: int, size: int, dim: int) -> nn.Linear:
    """From the last features of ``_convolutions`` to mean and log variance."""
    head = nn.Linear(4 * width * (size // 16) ** 2, 2 * dim)
    with torch.no_grad():
        head.bias[dim:].fill_(INITIAL_LOG_VARIANCE)
    return head


def _map_head(features: int, channels: int) -> nn.Conv2d:
    """From features to mean and log variance of a map."""
    conv = nn.Conv2d(features, 2 * channels, 1)
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias[channels:].fill_(INITIAL_LOG_VARIANCE)
    return conv


def _posterior(mean: Tensor, log_variance: Tensor, frames: Tensor) -> Posterior:
    """The posteriors of frames ``[B, N, ...]`` from rows ``[B * N, ...]``."""
    shape = frames.shape[:2]
    return Posterior(mean.unflatten(0, shape), log_variance.clamp(*LOG_VARIANCE_RANGE).unflatten(0, shape))


def reparametrise(mean: Tensor, log_variance: Tensor, white: Tensor) -> Tensor:
    """Sample of a diagonal Gaussian for white noise of the same shape."""
    return mean + (0.5 * log_variance).exp() * white


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """``KL(N(mean, exp(log_variance)) || N(0, I))`` in nats, summed over the last dimension, mean over the others."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1).mean()
