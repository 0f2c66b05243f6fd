"""One object owns one discriminator: its network, its schedule and its losses. ``ADVERSARIES`` is the table of all.

To add one: a class with the two losses, a line in the table, a ``ScheduleConfig`` field of the same name in
``config.DiscriminatorsConfig``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2v_ray.config import GanConfig, Recipe, ScheduleConfig
from s2v_ray.losses.adversarial import emotion_discriminator, emotion_generator, hinge_discriminator, hinge_generator
from s2v_ray.losses.sync import sync_contrast, sync_distance
from s2v_ray.models.discriminators import EmotionNetwork, FrameNetwork, SequenceNetwork
from s2v_ray.models.sync import SyncNetwork
from s2v_ray.training.schedules import is_updated, weight_at


@dataclass
class Scene:
    """What the discriminators judge by: the real window and what belongs to it.

    Attributes:
        frames: real ``[B, T, 3, S, S]`` in [-1, 1].
        speech: ``[B, T * 640]``: the speech under the window.
        identity: ``[B, D]``: the code the generator was given.
        emotion: ``[B, K]``: the probabilities of the emotion teacher.
        pick: ``[B, n]``: indices of the frames that discriminators of single frames look at.
    """

    frames: Tensor
    speech: Tensor
    identity: Tensor
    emotion: Tensor
    pick: Tensor

    def stills(self, frames: Tensor) -> Tensor:
        """The picked frames of ``[B, T, ...]`` as ``[B * n, ...]``."""
        rows = torch.arange(len(frames), device=frames.device)[:, None]
        return frames[rows, self.pick].flatten(0, 1)

    def each(self, codes: Tensor) -> Tensor:
        """``[B, D]`` repeated for the picked frames: ``[B * n, D]``."""
        return codes.repeat_interleave(self.pick.shape[1], 0)


class Adversary(nn.Module):
    """A discriminator with its schedule. Subclasses give its two losses on a scene and generated frames ``[B, T, 3, S, S]``."""

    def __init__(self, schedule: ScheduleConfig, network: nn.Module) -> None:
        super().__init__()
        self.schedule, self.network = schedule, network

    def discriminator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define discriminator_loss")

    def generator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define generator_loss")


class FrameAdversary(Adversary):
    def __init__(self, config: GanConfig, size: int, identity_dim: int, emotions: int) -> None:
        super().__init__(config.discriminators.frame, FrameNetwork(config.discriminators.width, identity_dim))

    def discriminator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        who = scene.each(scene.identity)
        return hinge_discriminator(self.network(scene.stills(scene.frames), who), self.network(scene.stills(fake), who))

    def generator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        return hinge_generator(self.network(scene.stills(fake), scene.each(scene.identity)))


class SequenceAdversary(Adversary):
    def __init__(self, config: GanConfig, size: int, identity_dim: int, emotions: int) -> None:
        super().__init__(config.discriminators.sequence, SequenceNetwork(config.discriminators.width))

    def discriminator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        return hinge_discriminator(self.network(scene.frames), self.network(fake))

    def generator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        return hinge_generator(self.network(fake))


class SyncAdversary(Adversary):
    """The pre-trained sync network; with a learning rate it goes on learning from real pairs, in step and shifted."""

    network: SyncNetwork

    def __init__(self, config: GanConfig, size: int, identity_dim: int, emotions: int) -> None:
        super().__init__(config.discriminators.sync, SyncNetwork(config.discriminators.width, config.sync.window, size))

    def discriminator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        net = self.network
        return sync_contrast(net.embed_speech(scene.speech), net.embed_frames(scene.frames), net.temperature)

    def generator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        return sync_distance(self.network.embed_speech(scene.speech), self.network.embed_frames(fake))


class EmotionAdversary(Adversary):
    def __init__(self, config: GanConfig, size: int, identity_dim: int, emotions: int) -> None:
        super().__init__(config.discriminators.emotion, EmotionNetwork(config.discriminators.width, emotions))

    def discriminator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        target = scene.each(scene.emotion)
        return emotion_discriminator(self.network(scene.stills(scene.frames)), self.network(scene.stills(fake)), target)

    def generator_loss(self, scene: Scene, fake: Tensor) -> Tensor:
        return emotion_generator(self.network(scene.stills(fake)), scene.each(scene.emotion))


ADVERSARIES = {
    "frame": FrameAdversary,
    "sequence": SequenceAdversary,
    "sync": SyncAdversary,
    "emotion": EmotionAdversary,
}


class Adversaries(nn.Module):
    """All discriminators that the recipe weighs above 0: one module, so that one engine trains them."""

    def __init__(self, recipe: Recipe, identity_dim: int, emotions: int) -> None:
        super().__init__()
        size, config = recipe.media.size, recipe.gan
        built = {
            name: make(config, size, identity_dim, emotions)
            for name, make in ADVERSARIES.items()
            if getattr(config.discriminators, name).weight > 0
        }
        self.members = nn.ModuleDict(built)

    def items(self) -> list[tuple[str, Adversary]]:
        """Names and members, in the table's order."""
        return [(name, member) for name, member in self.members.items() if isinstance(member, Adversary)]

    def learners(self, step: int) -> list[str]:
        """Names of those that learn at ``step``."""
        return [name for name, member in self.items() if is_updated(member.schedule, step)]

    def forward(self, scene: Scene, fake: Tensor, step: int) -> dict[str, Tensor]:
        """The losses of those that learn at ``step``; ``fake`` must be detached."""
        return {
            name: member.discriminator_loss(scene, fake)
            for name, member in self.items()
            if is_updated(member.schedule, step)
        }

    def generator_losses(self, scene: Scene, fake: Tensor, step: int) -> dict[str, tuple[float, Tensor]]:
        """Weight and loss of each that takes part in the generator's step at ``step``."""
        weights = {name: weight_at(member.schedule, step) for name, member in self.items()}
        return {
            name: (weights[name], member.generator_loss(scene, fake))
            for name, member in self.items()
            if weights[name] > 0
        }
