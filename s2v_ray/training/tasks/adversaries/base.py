"""The interface of a discriminator in training, and the table of all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from s2v_ray.config import AugmentConfig, GanConfig, ScheduleConfig
from s2v_ray.media.augment import augment
from s2v_ray.training.alarms import Alarm


@dataclass
class DiscriminatorInputs:
    """The real frames and their conditions, the inputs of all discriminators.

    Attributes:
        frames: real ``[B, T, 3, S, S]`` in [-1, 1].
        speech: ``[B, T * 640]``: the speech from the first target frame on.
        identity: ``[B, D]``: identity code that the generator was given.
        emotion: ``[B, K]``: probabilities of the emotion teacher.
        frame_indices: ``[B, n]``: the frames that discriminators of single frames use.
        consecutive: bool ``[B]``: clips whose frames follow each other.
        paired: bool ``[B]``: clips whose generated frames show the recording of the real ones; the others have the
            takes of other clips.
        key: seed, step and rank: the key of the augmentation's draw.
        first: position of the first of these clips in the batch.
    """

    frames: Tensor
    speech: Tensor
    identity: Tensor
    emotion: Tensor
    frame_indices: Tensor
    consecutive: Tensor
    paired: Tensor
    key: tuple[int, ...] = (0,)
    first: int = 0

    def select_frames(self, frames: Tensor) -> Tensor:
        """Select the frames of ``frame_indices``: ``[B, T, ...]`` -> ``[B * n, ...]``."""
        rows = torch.arange(len(frames), device=frames.device)[:, None]
        return frames[rows, self.frame_indices].flatten(0, 1)

    def augmented_frames(self, frames: Tensor, config: AugmentConfig) -> Tensor:
        """Select frames as ``select_frames`` and augment them, each clip with the same draw for real and generated."""
        selected = self.select_frames(frames).unflatten(0, self.frame_indices.shape)
        return augment(selected, config, self.key, self.first).flatten(0, 1)

    def repeat_per_frame(self, values: Tensor) -> Tensor:
        """Repeat values of clips for the selected frames: ``[B, ...]`` -> ``[B * n, ...]``."""
        return values.repeat_interleave(self.frame_indices.shape[1], 0)


@dataclass(frozen=True)
class AdversarySettings:
    """What an adversary is built from.

    Attributes:
        schedule: its own schedule.
        gan: the recipe's section.
        size: side of the frames, pixels.
        identity_dim: D, dimension of the identity code.
        emotions: K, number of emotions.
    """

    schedule: ScheduleConfig
    gan: GanConfig
    size: int
    identity_dim: int
    emotions: int


class Adversary(nn.Module, ABC):
    """A discriminator with its schedule. Subclasses define ``build`` and the two losses."""

    alarms: ClassVar[tuple[Alarm, ...]] = ()
    """Alarms on ``d_NAME``, ``g_NAME`` and the scalars of ``scalars``."""
    diagnostics: ClassVar[frozenset[str]] = frozenset()
    """Scalars that are recorded for alarms only."""

    def __init__(self, settings: AdversarySettings) -> None:
        super().__init__()
        self.schedule = settings.schedule
        self.network = self.build(settings)

    @abstractmethod
    def build(self, settings: AdversarySettings) -> nn.Module:
        """Make the network."""

    def load_pretrained(self, corpus: str, gan: GanConfig) -> None:  # noqa: B027  # most use none
        """Load pre-trained weights that the corpus holds, if the discriminator uses any."""

    def discriminator_terms(self, inputs: DiscriminatorInputs, fake: Tensor) -> dict[str, Tensor]:
        """Return the terms of its own step: "loss", and others that are added to it, recorded as ``d_NAME_TERM``."""
        return {"loss": self.discriminator_loss(inputs, fake)}

    def generator_terms(self, inputs: DiscriminatorInputs, fake: Tensor) -> dict[str, Tensor]:
        """Return its terms of the generator's loss: "loss", and "features" if it has feature matching."""
        return {"loss": self.generator_loss(inputs, fake)}

    def no_loss(self) -> Tensor:
        """Return 0 with a gradient of 0 for every parameter: workers reduce gradients of the same parameters."""
        return torch.stack([0.0 * p.sum() for p in self.network.parameters()]).sum()

    def scalars(self, step: int) -> dict[str, float]:  # noqa: ARG002  # subclasses use it
        """Return additional scalars to record while it takes part in the generator's loss."""
        return {}

    @abstractmethod
    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """Return the loss of its own step for detached generated frames ``[B, T, 3, S, S]``."""

    @abstractmethod
    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """Return its term of the generator's loss for generated frames ``[B, T, 3, S, S]``."""


AnyAdversary = TypeVar("AnyAdversary", bound=type[Adversary])
ADVERSARIES: dict[str, type[Adversary]] = {}
"""All discriminators, by the name of their schedule in ``gan.discriminators``."""


def register_adversary(name: str) -> Callable[[AnyAdversary], AnyAdversary]:
    """Return a class decorator that adds an adversary to ``ADVERSARIES``."""

    def add(adversary: AnyAdversary) -> AnyAdversary:
        ADVERSARIES[name] = adversary
        return adversary

    return add
