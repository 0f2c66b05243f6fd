import pytest
import torch

from s2v_ray.config import DiscriminatorsConfig, parse_recipe
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.training.tasks.adversaries import ADVERSARIES, Adversaries, DiscriminatorInputs
from tests.helpers.recipes import tiny_recipe

SCHEDULES = {
    "frame": {"weight": 0.1, "start": 2, "ramp": 2},
    "sequence": {"weight": 0.2, "interval": 3},
    "sync": {"weight": 0.3, "lr": 0.0},
    "emotion": {"weight": 0.0},
}
RECIPE = tiny_recipe(gan={"discriminators": {"width": 4, **SCHEDULES}})


def inputs() -> DiscriminatorInputs:
    frames = torch.rand(2, 8, 3, 32, 32) * 2 - 1
    pick = torch.tensor([[0, 3], [7, 1]])
    return DiscriminatorInputs(
        frames, 0.1 * torch.randn(2, frames_to_samples(8)), torch.randn(2, 6), torch.full((2, 5), 0.2), pick
    )


def test_every_adversary_of_the_table_has_a_schedule():
    assert {name for name, _ in DiscriminatorsConfig().schedules()} == set(ADVERSARIES)


def test_a_weight_of_zero_leaves_it_out():
    assert [name for name, _ in Adversaries(RECIPE, 6, 5).items()] == ["frame", "sequence", "sync"]


def test_schedules_are_followed():
    adversaries, fake = Adversaries(RECIPE, 6, 5), torch.rand(2, 8, 3, 32, 32)
    assert set(adversaries(inputs(), fake, 0)) == {"sequence"}  # frame starts later, sync is frozen
    assert set(adversaries(inputs(), fake, 3)) == {"frame", "sequence"}
    assert adversaries.updated_at(4) == ["frame"]
    losses = adversaries.generator_losses(inputs(), fake, 2)
    assert {name: weight for name, (weight, _) in losses.items()} == {"frame": 0.05, "sequence": 0.2, "sync": 0.3}


def test_selected_frames():
    here = inputs()
    stills = here.select_frames(here.frames)
    torch.testing.assert_close(stills[2], here.frames[1, 7])
    torch.testing.assert_close(here.repeat_per_frame(here.identity)[2:], here.identity[1].expand(2, -1))


def test_the_generator_gets_a_gradient_from_each():
    adversaries = Adversaries(RECIPE, 6, 5)
    for name, member in adversaries.items():
        fake = torch.rand(2, 8, 3, 32, 32, requires_grad=True)
        member.generator_loss(inputs(), fake).backward()
        assert fake.grad is not None and fake.grad.abs().max() > 0, name


def test_a_schedule_without_a_registered_discriminator_is_named():
    data = RECIPE.model_dump(mode="json")
    data["gan"]["discriminators"]["extra"] = {"mouth": {"weight": 0.1}}
    with pytest.raises(ValueError, match="no discriminator 'mouth'; known: frame, sequence, sync, emotion"):
        Adversaries(parse_recipe(data), 6, 5)


def test_scalars_are_recorded_while_the_discriminator_takes_part():
    adversaries = Adversaries(RECIPE, 6, 5)
    assert adversaries.scalars(0) == {"sync_weight": 1.0}
    assert adversaries.diagnostics == {"sync_weight"}
