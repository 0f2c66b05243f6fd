"""A discriminator from outside the package."""

from torch import nn

from s2v_ray.losses.adversarial import hinge_discriminator, hinge_generator
from s2v_ray.training.alarms import Alarm
from s2v_ray.training.tasks.adversaries import Adversary, register_adversary


@register_adversary("colour")
class ColourAdversary(Adversary):
    """Judges the mean colour of single frames."""

    alarms = (Alarm("colour_saturated", ("d_colour",), lambda r: r["d_colour"] < 0.05, "lower its learning rate"),)

    def build(self, settings):
        return nn.Linear(3, 1)

    def _logits(self, inputs, frames):
        return self.network(inputs.select_frames(frames).mean((2, 3)))

    def discriminator_loss(self, inputs, fake):
        return hinge_discriminator(self._logits(inputs, inputs.frames), self._logits(inputs, fake))

    def generator_loss(self, inputs, fake):
        return hinge_generator(self._logits(inputs, fake))
