import torch

from s2v_ray.config import DiscriminatorsConfig, parse_recipe
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.training.tasks.adversaries import ADVERSARIES, Adversaries, Scene

SCHEDULES = {
    "frame": {"weight": 0.1, "start": 2, "ramp": 2},
    "sequence": {"weight": 0.2, "interval": 3},
    "sync": {"weight": 0.3, "lr": 0.0},
    "emotion": {"weight": 0.0},
}
RECIPE = parse_recipe(
    {
        "media": {"size": 32},
        "gan": {"generator": {"channels": [8, 8, 8, 8]}, "discriminators": {"width": 4, **SCHEDULES}},
    }
)


def scene() -> Scene:
    frames = torch.rand(2, 8, 3, 32, 32) * 2 - 1
    pick = torch.tensor([[0, 3], [7, 1]])
    return Scene(frames, 0.1 * torch.randn(2, frames_to_samples(8)), torch.randn(2, 6), torch.full((2, 5), 0.2), pick)


def test_every_adversary_of_the_table_has_a_schedule():
    schedules = {name for name in DiscriminatorsConfig.model_fields if name != "width"}
    assert schedules == set(ADVERSARIES)


def test_a_weight_of_zero_leaves_it_out():
    assert [name for name, _ in Adversaries(RECIPE, 6, 5).items()] == ["frame", "sequence", "sync"]


def test_schedules_are_followed():
    adversaries, fake = Adversaries(RECIPE, 6, 5), torch.rand(2, 8, 3, 32, 32)
    assert set(adversaries(scene(), fake, 0)) == {"sequence"}  # frame starts later, sync is frozen
    assert set(adversaries(scene(), fake, 3)) == {"frame", "sequence"}
    assert adversaries.learners(4) == ["frame"]
    losses = adversaries.generator_losses(scene(), fake, 2)
    assert {name: weight for name, (weight, _) in losses.items()} == {"frame": 0.05, "sequence": 0.2, "sync": 0.3}


def test_picked_stills():
    here = scene()
    stills = here.stills(here.frames)
    torch.testing.assert_close(stills[2], here.frames[1, 7])
    torch.testing.assert_close(here.each(here.identity)[2:], here.identity[1].expand(2, -1))


def test_the_generator_gets_a_gradient_from_each():
    adversaries = Adversaries(RECIPE, 6, 5)
    for name, member in adversaries.items():
        fake = torch.rand(2, 8, 3, 32, 32, requires_grad=True)
        member.generator_loss(scene(), fake).backward()
        assert fake.grad is not None and fake.grad.abs().max() > 0, name
