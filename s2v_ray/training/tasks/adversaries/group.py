"""All discriminators of a run in one module."""

from __future__ import annotations

from torch import Tensor, nn

from s2v_ray.config import GanConfig, Recipe
from s2v_ray.training.alarms import Alarm
from s2v_ray.training.schedules import is_updated, ramp_at
from s2v_ray.training.tasks.adversaries.base import ADVERSARIES, Adversary, AdversarySettings, DiscriminatorInputs


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
        updated, losses = self.updated_at(step), {}
        for name, member in self.items():
            if name in updated:
                for term, value in member.discriminator_terms(inputs, fake).items():
                    losses[name if term == "loss" else f"{name}_{term}"] = value
        return losses

    def generator_losses(self, inputs: DiscriminatorInputs, fake: Tensor, step: int) -> dict[str, tuple[float, Tensor]]:
        """Return weight and value of each term in the generator's loss at ``step``: ``NAME``, ``NAME_features``."""
        losses: dict[str, tuple[float, Tensor]] = {}
        for name, member in self.items():
            if (ramp := ramp_at(member.schedule, step)) > 0:
                terms = member.generator_terms(inputs, fake)
                losses[name] = (ramp * member.schedule.weight, terms["loss"])
                if "features" in terms:
                    losses[f"{name}_features"] = (ramp * member.schedule.features, terms["features"])
        return losses

    def scalars(self, step: int) -> dict[str, float]:
        """Return the additional scalars of those that take part in the generator's loss at ``step``."""
        found: dict[str, float] = {}
        for _, member in self.items():
            if ramp_at(member.schedule, step) > 0:
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
