"""Discriminators of pictures: of the whole frame, of the mouth, of three consecutive frames, and of the emotion."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from s2v_ray.losses.adversarial import (
    emotion_discriminator,
    emotion_generator,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)
from s2v_ray.media.augment import augment
from s2v_ray.media.regions import mouth_box
from s2v_ray.models.discriminators import EmotionNetwork, FrameNetwork, MotionNetwork, MouthNetwork, PatchNetwork
from s2v_ray.training.alarms import Alarm
from s2v_ray.training.tasks.adversaries.base import (
    Adversary,
    AdversarySettings,
    DiscriminatorInputs,
    register_adversary,
)

SAME_IDENTITY = 0.5
"""Cosine of identity codes from which two clips may show the same person."""


def _hinge_alarms(name: str) -> tuple[Alarm, ...]:
    """Alarms of a discriminator with a hinge loss: it sees no difference (2), or nothing but differences (0)."""
    loss, key = f"d_{name}", f"gan.discriminators.{name}"
    return (
        Alarm(
            f"{name}_discriminator_saturated",
            (loss,),
            lambda r: bool(r[loss] < 0.05),
            f"the {name} discriminator separates real from generated frames perfectly, so the generator learns nothing "
            f"from it: lower {key}.lr, or raise {key}.interval",
        ),
        Alarm(
            f"{name}_discriminator_at_chance",
            (loss, f"g_{name}"),
            lambda r: bool(r[loss] > 1.95),
            f"the {name} discriminator does not tell real from generated frames, so the generator learns nothing from "
            f"it: raise {key}.lr or {key}.head_start, or lower {key}.weight",
        ),
    )


class PictureAdversary(Adversary):
    """A discriminator of pictures with hinge loss, feature matching and augmented inputs."""

    network: PatchNetwork

    def __init__(self, settings: AdversarySettings) -> None:
        super().__init__(settings)
        self.augment = settings.gan.discriminators.augment

    @abstractmethod
    def logits(self, features: Tensor, inputs: DiscriminatorInputs) -> Tensor:
        """Return the logits for features of the selected frames."""

    def pictures(self, inputs: DiscriminatorInputs, frames: Tensor) -> Tensor:
        """Return the augmented pictures ``[N, ...]`` that it sees of ``frames``; N may be 0."""
        return inputs.augmented_frames(frames, self.augment)

    def paired(self, inputs: DiscriminatorInputs) -> Tensor:
        """Return bool ``[N]``: pictures whose generated version shows the recording of the real one."""
        return inputs.repeat_per_frame(inputs.paired)

    def features(self, inputs: DiscriminatorInputs, frames: Tensor) -> list[Tensor]:
        """Return the network's features of the pictures."""
        return self.network.features(self.pictures(inputs, frames))

    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``. Without a picture, the loss is 0."""
        if not len(self.paired(inputs)):
            return self.no_loss()
        real, generated = (self.logits(self.features(inputs, x)[-1], inputs) for x in (inputs.frames, fake))
        return hinge_discriminator(real, generated)

    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``."""
        return hinge_generator(self.logits(self.features(inputs, fake)[-1], inputs))

    def generator_terms(self, inputs: DiscriminatorInputs, fake: Tensor) -> dict[str, Tensor]:
        """See ``Adversary``."""
        paired = self.paired(inputs)
        if not len(paired):
            zero = 0.0 * fake.sum()
            return {"loss": zero, "features": zero} if self.schedule.features > 0 else {"loss": zero}
        generated = self.features(inputs, fake)
        terms = {"loss": hinge_generator(self.logits(generated[-1], inputs))}
        if self.schedule.features > 0:
            with torch.no_grad():
                real = self.features(inputs, inputs.frames)
            if paired.any():
                terms["features"] = feature_matching([x[paired] for x in generated], [x[paired] for x in real])
            else:
                terms["features"] = 0.0 * terms["loss"]
        return terms


@register_adversary("frame")
class FrameAdversary(PictureAdversary):
    """Judges single frames, conditioned on the identity code."""

    network: FrameNetwork
    alarms = _hinge_alarms("frame")

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        return FrameNetwork(settings.gan.discriminators.width, settings.identity_dim)

    def logits(self, features: Tensor, inputs: DiscriminatorInputs) -> Tensor:
        """See ``PictureAdversary``."""
        return self.network.logits(features, inputs.repeat_per_frame(inputs.identity))

    def discriminator_terms(self, inputs: DiscriminatorInputs, fake: Tensor) -> dict[str, Tensor]:
        """See ``Adversary``. "identity": the hinge loss of real frames that are shown with another clip's identity.

        They must count as generated. Pairs of clips whose identities are similar are left out, because they may show
        the same person.
        """
        real, generated = (self.features(inputs, x)[-1] for x in (inputs.frames, fake))
        other = inputs.identity.roll(1, 0)
        differs = ((inputs.identity * other).sum(-1) < SAME_IDENTITY).float()
        logits = self.network.logits(real, inputs.repeat_per_frame(other)).float()
        hinge = torch.relu(1.0 + logits).mean((1, 2)) * inputs.repeat_per_frame(differs)
        loss = hinge_discriminator(self.logits(real, inputs), self.logits(generated, inputs))
        return {"loss": loss, "identity": hinge.mean()}


@register_adversary("mouth")
class MouthAdversary(PictureAdversary):
    """Judges the mouth region of single frames."""

    network: MouthNetwork
    alarms = _hinge_alarms("mouth")

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        self.box = mouth_box(settings.size)
        return MouthNetwork(settings.gan.discriminators.width)

    def pictures(self, inputs: DiscriminatorInputs, frames: Tensor) -> Tensor:
        """See ``PictureAdversary``."""
        y0, y1, x0, x1 = self.box
        return super().pictures(inputs, frames)[..., y0:y1, x0:x1]

    def logits(self, features: Tensor, inputs: DiscriminatorInputs) -> Tensor:  # noqa: ARG002  # unconditional
        """See ``PictureAdversary``."""
        return self.network.logits(features)


@register_adversary("motion")
class MotionAdversary(PictureAdversary):
    """Judges how much and how a face moves, from three consecutive frames. Other clips do not count."""

    network: MotionNetwork
    alarms = _hinge_alarms("motion")

    def build(self, settings: AdversarySettings) -> nn.Module:
        """See ``Adversary``."""
        return MotionNetwork(settings.gan.discriminators.width)

    def pictures(self, inputs: DiscriminatorInputs, frames: Tensor) -> Tensor:
        """See ``PictureAdversary``: ``[N, 9, S, S]``."""
        chosen = augment(frames[inputs.consecutive], self.augment, inputs.key, inputs.first)
        return torch.cat([chosen[:, :-2], chosen[:, 1:-1], chosen[:, 2:]], dim=2).flatten(0, 1)

    def paired(self, inputs: DiscriminatorInputs) -> Tensor:
        """See ``PictureAdversary``."""
        return inputs.paired[inputs.consecutive].repeat_interleave(inputs.frames.shape[1] - 2)

    def logits(self, features: Tensor, inputs: DiscriminatorInputs) -> Tensor:  # noqa: ARG002  # unconditional
        """See ``PictureAdversary``."""
        return self.network.logits(features)


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
