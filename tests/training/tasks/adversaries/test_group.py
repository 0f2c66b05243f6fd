import pytest
import torch

from s2v_ray.config import parse_recipe
from s2v_ray.training.tasks.adversaries import Adversaries
from tests.helpers.adversaries import make_inputs
from tests.helpers.recipes import tiny_recipe

SCHEDULES = {
    "frame": {"weight": 0.1, "start": 2, "ramp": 2, "features": 0.4},
    "mouth": {"weight": 0.2, "interval": 3},
    "sync": {"weight": 0.3, "lr": 0.0},
    "motion": {"weight": 0.0},
    "emotion": {"weight": 0.0},
}
RECIPE = tiny_recipe(gan={"discriminators": {"width": 4, **SCHEDULES}})


def test_a_weight_of_zero_leaves_it_out():
    assert [name for name, _ in Adversaries(RECIPE, 6, 5).items()] == ["frame", "mouth", "sync"]


def test_schedules_are_followed():
    adversaries, fake = Adversaries(RECIPE, 6, 5), torch.rand(2, 8, 3, 32, 32)
    assert set(adversaries(make_inputs(), fake, 0)) == {"mouth"}  # frame starts later, sync is frozen
    assert set(adversaries(make_inputs(), fake, 3)) == {"frame", "frame_identity", "mouth"}
    assert adversaries.updated_at(4) == ["frame"]
    losses = adversaries.generator_losses(make_inputs(), fake, 2)
    weights = {name: weight for name, (weight, _) in losses.items()}
    assert weights == pytest.approx({"frame": 0.05, "frame_features": 0.2, "mouth": 0.2, "sync": 0.3})


def test_the_generator_gets_a_gradient_from_each():
    adversaries = Adversaries(RECIPE, 6, 5)
    for name, member in adversaries.items():
        fake = torch.rand(2, 8, 3, 32, 32, requires_grad=True)
        member.generator_loss(make_inputs(), fake).backward()
        assert fake.grad is not None and fake.grad.abs().max() > 0, name


def test_a_schedule_without_a_registered_discriminator_is_named():
    data = RECIPE.model_dump(mode="json")
    data["gan"]["discriminators"]["extra"] = {"colour": {"weight": 0.1}}
    with pytest.raises(ValueError, match="no discriminator 'colour'; known: frame, mouth, motion, emotion, sync"):
        Adversaries(parse_recipe(data), 6, 5)


def test_scalars_are_recorded_while_the_discriminator_takes_part():
    adversaries = Adversaries(RECIPE, 6, 5)
    assert adversaries.scalars(0) == {"sync_weight": 1.0}
    assert adversaries.diagnostics == {"sync_weight"}
