"""The sync network as discriminator."""

from __future__ import annotations

from torch import Tensor, nn

from s2v_ray.config import GanConfig
from s2v_ray.losses.sync import sync_contrast, sync_distance
from s2v_ray.models.sync import SyncNetwork, load_sync
from s2v_ray.training.alarms import Alarm
from s2v_ray.training.schedules import ramp_at
from s2v_ray.training.tasks.adversaries.base import (
    Adversary,
    AdversarySettings,
    DiscriminatorInputs,
    register_adversary,
)


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
        return {"sync_weight": ramp_at(self.schedule, step)}

    def discriminator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:  # noqa: ARG002  # real only
        """See ``Adversary``."""
        net, chosen = self.network, inputs.consecutive
        if not chosen.any():
            return self.no_loss()
        speech, frames = net.embed_speech(inputs.speech[chosen]), net.embed_frames(inputs.frames[chosen])
        return sync_contrast(speech, frames, net.temperature)

    def generator_loss(self, inputs: DiscriminatorInputs, fake: Tensor) -> Tensor:
        """See ``Adversary``. Only clips with consecutive frames count; without any, the loss is 0."""
        chosen = inputs.consecutive
        if not chosen.any():
            return 0.0 * fake.sum()
        return sync_distance(self.network.embed_speech(inputs.speech[chosen]), self.network.embed_frames(fake[chosen]))
