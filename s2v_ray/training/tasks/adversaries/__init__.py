"""One object owns one discriminator: network, pre-trained weights, schedule, losses, alarms and logged scalars.

``ADVERSARIES`` is the table of all. To add one, write a subclass of ``Adversary`` and register it with
``register_adversary``. A package outside does that in a module that the recipe names in ``plugins``, and gives its
schedule in ``gan.discriminators.extra``.
"""

from s2v_ray.training.tasks.adversaries import pictures, sync  # noqa: F401  # they register their discriminators
from s2v_ray.training.tasks.adversaries.base import (
    ADVERSARIES,
    Adversary,
    AdversarySettings,
    DiscriminatorInputs,
    register_adversary,
)
from s2v_ray.training.tasks.adversaries.group import Adversaries

__all__ = [
    "ADVERSARIES",
    "Adversaries",
    "Adversary",
    "AdversarySettings",
    "DiscriminatorInputs",
    "register_adversary",
]
