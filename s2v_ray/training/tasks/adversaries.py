"""One object owns one discriminator: network, pre-trained weights, schedule, losses, alarms and logged scalars.

``ADVERSARIES`` is the table of all. To add one, write a subclass of ``Adversary`` and register it with
``register_adversary``. A package outside does that in a module that the recipe names in ``plugins``, and gives its
schedule in ``gan.discriminators.extra``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from s2v_ray.config import GanConfig, Recipe, ScheduleConfig
from s2v_ray.losses.adversarial import (
    emotion_discriminator,
    emotion_generator,
    hinge_discriminator,
    hinge_generator,
)
from s2v_ray.losses.sync import sync_contrast, sync_distance
from s2v_ray.models.discriminators import EmotionNetwork, FrameNetwork, SequenceNetwork
from s2v_ray.models.sync import SyncNetwork, load_sync
from s2v_ray.training.alarms import Alarm
from s2v_ray.training.schedules import is_updated, weight_at


@dataclass
class DiscriminatorInputs:
    """The real window and its conditions, the inputs of all discriminators.

    Attributes:
        frames: real ``[B, T, 3, S, S]`` in [-1, 1].
        speech: ``[B, T * 640]``: the speech of the window.
        identity: ``[B, D]``: identity code that the generator was given.
        emotion: ``[B, K]``: probabilities of the emotion teacher.
        frame_indices: ``[B, n]``: the frames that discriminators of single frames use.
    """

    frames: Tensor
    speech: Tensor
    identity: Tensor
    emotion: Tensor
    frame_indices: Tensor

    def select_frames(self, frames: Tensor) -> Tensor:
        """Select the frames of ``frame_indices``: ``[B, T, ...]`` -> ``[B * n, ...]``."""
        rows = torch.arange(len(frames), device=frames.device)[:, None]
        return frames[rows, self.frame_indices].flatten(0, 1)

    def repeat_per_frame(self, codes: Tensor) -> Tensor:
        """Repeat codes for the selected frames: ``[B, D]`` -> ``[B * n, D]``."""
        return codes.repeat_interleave(self.frame_indices.shape[1], 0)


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


@register_adversary("frame")
class FrameAdversary(Adversary):
    """Judges single frames, conditioned on the identity code."""

    alarms = (
        Alarm(
            "frame_discriminator_saturated",
            ("d_frame",),
            lambda r: bool(r["d_frame"] < 0.05),
            "the frame discriminator separates real from generated frames perfectly, so the generator learns nothing "
            "from it: lower gan.discriminators.frame.lr, or raise its interval",
        ),
    )

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        return FrameNetwork(settings.gan.discriminators.width, settings.identity_dim)

    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        identity = inputs.repeat_per_frame(inputs.identity)
        real = self.network(inputs.select_frames(inputs.frames), identity)
        return hinge_discriminator(real, self.network(inputs.select_frames(fake), identity))

    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        return hinge_generator(self.network(inputs.select_frames(fake), inputs.repeat_per_frame(inputs.identity)))


@register_adversary("sequence")
class SequenceAdversary(Adversary):
    """Judges the movement of a whole window."""

    alarms = (
        Alarm(
            "sequence_discriminator_saturated",
            ("d_sequence",),
            lambda r: bool(r["d_sequence"] < 0.05),
            "the sequence discriminator separates real from generated sequences perfectly: "
            "lower gan.discriminators.sequence.lr, or raise its interval",
        ),
    )

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        return SequenceNetwork(settings.gan.discriminators.width)

    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        return hinge_discriminator(self.network(inputs.frames), self.network(fake))

    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:  # noqa: ARG002  # unconditional
        """See ``Adversary``."""
        return hinge_generator(self.network(fake))


@register_adversary("sync")
class SyncAdversary(Adversary):
    """The pre-trained sync network. With a learning rate it is also trained on real pairs, in step and shifted."""

    network: SyncNetwork
    alarms = (
        Alarm(
            "sync_at_chance",
            ("g_sync", "sync_weight"),
            lambda r: bool(r["sync_weight"] == 1.0 and r["g_sync"] > 0.9),  # 1 - cos of unrelated windows is about 1
            "the generated mouths do not follow the speech: raise gan.discriminators.sync.weight or gan.mouth, or "
            "check whether picture and sound of the corpus are in step",
        ),
    )
    diagnostics = frozenset({"sync_weight"})

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        return SyncNetwork(settings.gan.discriminators.width, settings.gan.sync.window, settings.size)

    def load_pretrained(self, corpus: str, gan: GanConfig) -> None:
        """Load the sync expert of the corpus.

        Raises:
            ArtifactError: there is none, or its held-out accuracy is below ``gan.sync.min_accuracy``.
        """
        self.network.load_state_dict(load_sync(corpus, "expert", gan.sync.min_accuracy).state_dict())

    def scalars(self, step: int) -> dict[str, float]:
        """Return ``sync_weight``: the share of its full weight that it has at ``step``."""
        return {"sync_weight": weight_at(self.schedule, step) / self.schedule.weight}

    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:  # noqa: ARG002  # real only
        """See ``Adversary``."""
        net = self.network
        return sync_contrast(net.embed_speech(inputs.speech), net.embed_frames(inputs.frames), net.temperature)

    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        return sync_distance(self.network.embed_speech(inputs.speech), self.network.embed_frames(fake))


@register_adversary("emotion")
class EmotionAdversary(Adversary):
    """Classifies the emotion of single frames, with generated frames as an additional class."""

    alarms = (
        Alarm(
            "emotion_discriminator_saturated",
            ("d_emotion", "g_emotion"),
            lambda r: bool(r["d_emotion"] < 0.05 and r["g_emotion"] > 3.0),
            "the emotion discriminator recognises every generated face: "
            "lower gan.discriminators.emotion.lr, or raise its interval",
        ),
    )

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        return EmotionNetwork(settings.gan.discriminators.width, settings.emotions)

    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        real = self.network(inputs.select_frames(inputs.frames))
        generated = self.network(inputs.select_frames(fake))
        return emotion_discriminator(real, generated, inputs.repeat_per_frame(inputs.emotion))

    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        logits = self.network(inputs.select_frames(fake))
        return emotion_generator(logits, inputs.repeat_per_frame(inputs.emotion))


class Adversaries(nn.Module):
    """All discriminators whose weight in the recipe is above 0: one module, so that one engine trains them.

    Raises:
        ValueError: the recipe gives a schedule to a name that is not registered.
    """

    def __init__(self, recipe: Recipe, identity_dim: int, emotions: int) -> None:
        super().__init__()
        schedules = dict(recipe.gan.discriminators.schedules())
        if unknown := schedules.keys() - ADVERSARIES.keys():
            raise ValueError(
                f"gan.discriminators.extra: there is no discriminator {min(unknown)!r}; known: "
                f"{', '.join(ADVERSARIES)}. "
                "A plugin that registers it must be named in plugins"
            )
        self.members = nn.ModuleDict()
        for name, schedule in schedules.items():
            if schedule.weight > 0:
                settings = AdversarySettings(schedule, recipe.gan, recipe.media.size, identity_dim, emotions)
                self.members[name] = ADVERSARIES[name](settings)

    def items(self) -> list[tuple[str, Adversary]]:
        """Return names and members, in the order of the recipe's schedules."""
        return [(name, member) for name, member in self.members.items() if isinstance(member, Adversary)]

    def load_pretrained(self, corpus: str, gan: GanConfig) -> None:
        """Load the pre-trained weights of those that use any."""
        for _, member in self.items():
            member.load_pretrained(corpus, gan)

    def updated_at(self, step: int) -> list[str]:
        """Return the names of those that are updated at ``step``."""
        return [name for name, member in self.items() if is_updated(member.schedule, step)]

    def forward(self, inputs: DiscriminatorInputs, fake: Tensor, step: int) -> dict[str, Tensor]:
        """Return the losses of those that are updated at ``step``; ``fake`` must be detached."""
        updated = self.updated_at(step)
        return {name: member.discriminator_loss(inputs, fake) for name, member in self.items() if name in updated}

    def generator_losses(self, inputs: DiscriminatorInputs, fake: Tensor, step: int) -> dict[str, tuple[float, Tensor]]:
        """Return weight and loss of each that takes part in the generator's loss at ``step``."""
        weights = {name: weight_at(member.schedule, step) for name, member in self.items()}
        return {
            name: (weights[name], member.generator_loss(inputs, fake))
            for name, member in self.items()
            if weights[name] > 0
        }

    def scalars(self, step: int) -> dict[str, float]:
        """Return the additional scalars of those that take part in the generator's loss at ``step``."""
        found: dict[str, float] = {}
        for _, member in self.items():
            if weight_at(member.schedule, step) > 0:
                found |= member.scalars(step)
        return found

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Alarms of all members."""
        return tuple(alarm for _, member in self.items() for alarm in member.alarms)

    @property
    def diagnostics(self) -> frozenset[str]:
        """Scalars of all members that are recorded for alarms only."""
        return frozenset(name for _, member in self.items() for name in member.diagnostics)
