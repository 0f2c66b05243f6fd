"""The whole model, from speech to video: student, take encoder, priors and generator.

Shapes: B clips, T target frames, P reference frames, L >= T frames of speech, D identity, E emotion, Z take latent,
M motion code, C content, S side of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2v_ray.config import Recipe
from s2v_ray.models.generator import ClipCodes, Generator
from s2v_ray.models.student import Student
from s2v_ray.models.take import (
    KnownTake,
    MotionEncoder,
    MotionPrior,
    TakeEncoder,
    TakePrior,
    kl_to_standard_normal,
    reparametrise,
)

RECOGNISED_FRAMES = 2
"""Generated frames of a clip in which the encoder must find the sampled take again."""


@dataclass
class TrainingInputs:
    """One training batch on its device.

    Attributes:
        speech: ``[B, L * 640]``.
        speech_mask: bool ``[B, L]``, False where the speech is padding.
        index: int64 ``[B, T]``, positions of the target frames within the speech.
        frames: ``[B, T, 3, S, S]`` in [-1, 1], the target frames.
        references: ``[B, P, 3, S, S]`` in [-1, 1], other frames of the same clips.
        sampled: bool ``[B]``: clips that get the take of another clip.
        white_take: ``[B, Z]``, standard normal.
        white_motion: ``[B, T, M]``, standard normal.
        noise: ``[B, T, 1, S, S]``, standard normal: noise of the frames.
    """

    speech: Tensor
    speech_mask: Tensor
    index: Tensor
    frames: Tensor
    references: Tensor
    sampled: Tensor
    white_take: Tensor
    white_motion: Tensor
    noise: Tensor


@dataclass
class TrainingOutputs:
    """What a training step uses of the model.

    Attributes:
        versions: ``[2, B, T, 3, S, S]`` in [-1, 1]: the frames without and with noise.
        identity: ``[B, D]``, the student's code.
        take: ``[B, Z]``, that the frames were generated with; the reference baseline ignores it.
        take_error: scalar, mean squared difference between sampled takes and those that the encoder finds in the
            generated frames; 0 if no take was sampled.
        kl_take: scalar, nats per clip.
        kl_motion: scalar, nats per frame.
    """

    versions: Tensor
    identity: Tensor
    take: Tensor
    take_error: Tensor
    kl_take: Tensor
    kl_motion: Tensor

    @property
    def clean(self) -> Tensor:
        """The frames without noise, for losses that compare them with those of a recording."""
        return self.versions[0]

    @property
    def frames(self) -> Tensor:
        """The frames with noise."""
        return self.versions[1]


class Speech2Video(nn.Module):
    """The model that the GAN trains, and that bundles contain.

    Args:
        recipe: config of all networks.
        identity_dim: D of the identity teacher.
        emotions: labels of the emotion teacher.
    """

    def __init__(self, recipe: Recipe, identity_dim: int, emotions: tuple[str, ...]) -> None:
        super().__init__()
        config, student = recipe.gan.generator, recipe.student
        self.student = Student(student, identity_dim, emotions)
        self.take_encoder = TakeEncoder(config, recipe.media.size)
        self.motion_encoder = MotionEncoder(config, recipe.media.size)
        self.take_prior = TakePrior(identity_dim, student.emotion_dim, config, recipe.media.size)
        self.motion_prior = MotionPrior(config)
        self.generator = Generator(config, recipe.media.size, identity_dim, student.emotion_dim, student.content_dim)
        self.reference = config.reference

    def forward(self, inputs: TrainingInputs) -> TrainingOutputs:
        """Generates the target frames of a training batch.

        Clips that are not ``sampled`` get their own take and motion, as the posterior finds them. The others get those
        of another clip of the batch, the one before them. They may show another person, so the take is of no use for
        telling who it is.
        """
        codes = self.student(inputs.speech, inputs.speech_mask)
        content = codes.content_at(inputs.index)
        p = inputs.references.shape[1]
        found = self.take_encoder(inputs.references)
        mean, log_variance = found.mean.mean(1), found.log_variance.mean(1)
        moved = self.motion_encoder(torch.cat([inputs.references, inputs.frames], dim=1))
        relative, motion_log_variance = (
            moved.mean[:, p:] - moved.mean[:, :p].mean(1, keepdim=True),
            moved.log_variance[:, p:],
        )
        own = reparametrise(mean, log_variance, inputs.white_take)
        motion = reparametrise(relative, motion_log_variance, inputs.white_motion)
        take = torch.where(inputs.sampled[:, None], own.detach().roll(1, 0), own)
        motion = torch.where(inputs.sampled[:, None, None], motion.detach().roll(1, 0), motion)
        still = inputs.references[:, 0] if self.reference else None
        clip_codes = ClipCodes(codes.identity, codes.emotion, take, still)
        noise = torch.stack([torch.zeros_like(inputs.noise), inputs.noise])
        versions = self.generator(clip_codes, content, motion, noise)
        return TrainingOutputs(
            versions=versions,
            identity=codes.identity,
            take=take,
            take_error=self._take_error(versions[1], take, inputs.sampled),
            kl_take=kl_to_standard_normal(mean, log_variance),
            kl_motion=kl_to_standard_normal(relative, motion_log_variance),
        )

    def _take_error(self, frames: Tensor, take: Tensor, sampled: Tensor) -> Tensor:
        if self.reference or not sampled.any():
            return frames.new_zeros(())
        mean: Tensor = self.take_encoder(frames[sampled][:, :RECOGNISED_FRAMES]).mean
        return (mean.mean(1) - take[sampled].detach()).square().mean()

    @torch.no_grad()
    def take_of(self, pictures: Tensor) -> Tensor:
        """Takes of pictures: ``[B, 3, S, S]`` in [-1, 1] -> ``[B, Z]``, the posterior's mean."""
        mean: Tensor = self.take_encoder(pictures[:, None]).mean
        return mean[:, 0]

    @torch.no_grad()
    def known_take(self, pictures: Tensor, speech: Tensor, identity: Tensor) -> KnownTake:
        """The take of a clip, for the prior.

        Args:
            pictures: frames ``[P, 3, S, S]`` in [-1, 1].
            speech: ``[L * 640]``.
            identity: ``[D]``, code of the identity teacher for the clip's face. The student's code of the speech would
                not do: it is the same for speakers that the student cannot distinguish by voice.
        """
        found = self.take_encoder(pictures[None])
        mean, log_variance = found.mean[0].mean(0), found.log_variance[0].mean(0)
        emotion = self.student(speech[None]).emotion[0].float()
        return KnownTake(functional.normalize(identity, dim=0), emotion, mean, log_variance)

    @torch.no_grad()
    def motion_of(self, frames: Tensor) -> Tensor:
        """Motion codes of one clip: ``[T, 3, S, S]`` in [-1, 1] -> ``[T, M]``, relative to their mean."""
        mean: Tensor = self.motion_encoder(frames[None]).mean
        return mean[0] - mean[0].mean(0)

    def distilled(self) -> list[nn.Parameter]:
        """Returns the parameters that distillation trains and that the GAN does not change."""
        return [*self.student.identity.parameters(), *self.student.emotion.parameters()]
