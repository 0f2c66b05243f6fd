import torch

from s2v_ray.config import ScheduleConfig
from s2v_ray.training.tasks.adversaries import ADVERSARIES, AdversarySettings
from tests.helpers.adversaries import EMOTIONS, IDENTITY, make_inputs
from tests.helpers.recipes import tiny_recipe

RECIPE = tiny_recipe(gan={"discriminators": {"width": 4}})


def test_only_consecutive_frames_count():
    torch.manual_seed(0)
    schedule = ScheduleConfig(weight=0.1, lr=1e-3)
    adversary = ADVERSARIES["sync"](AdversarySettings(schedule, RECIPE.gan, 32, IDENTITY, EMOTIONS))
    here = make_inputs(consecutive=torch.tensor([True, False]))
    fake = torch.rand(2, 8, 3, 32, 32, requires_grad=True)
    loss = adversary.generator_loss(here, fake)
    loss.backward()
    assert fake.grad is not None and fake.grad[0].abs().max() > 0 and fake.grad[1].abs().max() == 0
    alone = make_inputs(frames=here.frames[:1], speech=here.speech[:1], consecutive=torch.tensor([True]))
    torch.testing.assert_close(loss, adversary.generator_loss(alone, fake[:1]))
    torch.testing.assert_close(adversary.discriminator_loss(here, fake), adversary.discriminator_loss(alone, fake[:1]))
    spread = make_inputs(consecutive=torch.tensor([False, False]))
    assert adversary.generator_loss(spread, fake) == 0 and adversary.discriminator_loss(spread, fake) == 0
