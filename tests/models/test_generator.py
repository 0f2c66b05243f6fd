from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from s2v_ray.config import Recipe, load_recipe
from s2v_ray.models.generator import INITIAL_NOISE, ClipCodes, Generator, ModulatedBlock
from tests.helpers.recipes import tiny_recipe

DIM = 8


@pytest.fixture
def recipe() -> Recipe:
    torch.manual_seed(0)
    return tiny_recipe(student={"width": 16, "layers": 2}, gan={"generator": {"channels": [16, 16, 8, 8]}})


def make_generator(recipe: Recipe, dim: int = DIM) -> Generator:
    return Generator(
        recipe.gan.generator, recipe.media.size, dim, recipe.student.emotion_dim, recipe.student.content_dim
    ).eval()


def make_inputs(recipe: Recipe, frames: int) -> tuple[ClipCodes, torch.Tensor, torch.Tensor]:
    config = recipe.gan.generator
    codes = ClipCodes(torch.randn(1, DIM), torch.randn(1, recipe.student.emotion_dim), torch.randn(1, config.take_dim))
    return codes, torch.randn(1, frames, recipe.student.content_dim), torch.randn(1, frames, config.motion_dim)


def test_frames_do_not_depend_on_their_neighbours(recipe: Recipe) -> None:
    generator = make_generator(recipe)
    codes, content, motion = make_inputs(recipe, 6)
    whole, part = generator(codes, content, motion), generator(codes, content[:, 2:4], motion[:, 2:4])
    assert whole.shape == (1, 6, 3, 32, 32) and whole.abs().max() <= 1.0
    torch.testing.assert_close(whole[:, 2:4], part, atol=1e-5, rtol=1e-4)


def test_an_entry_of_a_map_of_the_take_changes_the_picture_most_at_its_place(recipe: Recipe) -> None:
    torch.manual_seed(0)
    config = recipe.gan.generator.model_copy(update={"take_maps": (2, 1)})
    changed = recipe.model_copy(update={"gan": recipe.gan.model_copy(update={"generator": config})})
    generator, (codes, content, motion) = make_generator(changed), make_inputs(recipe, 1)
    take = torch.randn(1, config.take_size(32))
    for first, side, row, column in ((config.take_dim, 4, 3, 0), (config.take_dim + 2 * 16, 8, 1, 6)):
        other = take.clone()
        other[0, first + side * row + column] += 3.0
        plain, moved = (
            generator(ClipCodes(codes.identity, codes.emotion, z), content, motion)[0, 0] for z in (take, other)
        )
        difference = F.avg_pool2d((plain - moved).abs().sum(0)[None], 32 // side)[0]
        assert divmod(int(difference.argmax()), side) == pytest.approx((row, column), abs=1)


def test_the_frames_depend_on_every_code(recipe: Recipe) -> None:
    codes, content, motion = make_inputs(recipe, 2)
    inputs = [codes.identity, codes.emotion, codes.take, content, motion]
    for x in inputs:
        assert x is not None
        x.requires_grad_(True)
    make_generator(recipe)(codes, content, motion).square().sum().backward()
    assert all(x is not None and x.grad is not None and x.grad.abs().max() > 0 for x in inputs)


def test_noise_is_added_in_grains_with_a_scale_for_each_channel(recipe: Recipe) -> None:
    generator = make_generator(recipe)
    codes, content, motion = make_inputs(recipe, 3)
    noise = torch.randn(1, 3, 1, 32, 32)
    plain, noisy = generator(codes, content, motion), generator(codes, content, motion, noise)
    assert not torch.allclose(plain, noisy)
    with torch.no_grad():
        generator.noise[1].zero_()
    grain = generator._grain(noise)
    torch.testing.assert_close(grain[:, 2], INITIAL_NOISE * noise[0, :, 0])
    with torch.no_grad():
        generator.noise[0].zero_()
        generator.noise[1, 3] = 2.0
    grain = generator._grain(noise)
    assert grain.shape == (3, 8, 32, 32) and grain[:, 2].eq(0).all()
    assert torch.equal(grain[:, 3, 0::2, 0::2], grain[:, 3, 1::2, 1::2]), "grains of two pixels"
    assert grain[:, 3].std().item() == pytest.approx(2.0, abs=0.2)


def test_versions_with_other_noise_are_those_of_single_calls(recipe: Recipe) -> None:
    generator = make_generator(recipe)
    codes, content, motion = make_inputs(recipe, 3)
    noise = torch.stack([torch.zeros(1, 3, 1, 32, 32), torch.randn(1, 3, 1, 32, 32)])
    versions = generator(codes, content, motion, noise)
    torch.testing.assert_close(versions[0], generator(codes, content, motion))
    torch.testing.assert_close(versions[1], generator(codes, content, motion, noise[1]))


def test_only_the_reference_baseline_takes_a_still(recipe: Recipe) -> None:
    codes, content, motion = make_inputs(recipe, 2)
    still = torch.zeros(1, 3, 32, 32)
    with_still = ClipCodes(codes.identity, codes.emotion, codes.take, still)
    with pytest.raises(ValueError, match="only the reference baseline"):
        make_generator(recipe)(with_still, content, motion)
    reference = make_generator(recipe.with_reference(True))
    with pytest.raises(ValueError, match="needs a still"):
        reference(codes, content, motion)
    brighter = ClipCodes(codes.identity, codes.emotion, codes.take, still + 0.5)
    assert not torch.allclose(reference(with_still, content, motion), reference(brighter, content, motion))
    other_take = ClipCodes(codes.identity, codes.emotion, None, still)
    torch.testing.assert_close(reference(with_still, content, motion), reference(other_take, content, motion))


def test_a_generator_without_a_take_is_an_error(recipe: Recipe) -> None:
    codes, content, motion = make_inputs(recipe, 2)
    with pytest.raises(ValueError, match="needs a take latent"):
        make_generator(recipe)(ClipCodes(codes.identity, codes.emotion), content, motion)


def test_a_block_starts_without_checkerboard() -> None:
    torch.manual_seed(0)
    block = ModulatedBlock(6, 5, code_dim=4)
    up = F.pixel_shuffle(block.expand(torch.randn(1, 6, 4, 4)) - block.expand.bias[:, None, None], 2)
    torch.testing.assert_close(up, F.interpolate(up[..., ::2, ::2], scale_factor=2, mode="nearest"))


def test_under_20_million_parameters_at_128() -> None:
    recipe = load_recipe("full")
    assert recipe.media.size == 128
    generator = Generator(
        recipe.gan.generator, 128, recipe.teach.embedding, recipe.student.emotion_dim, recipe.student.content_dim
    )
    assert sum(p.numel() for p in generator.parameters()) < 20e6
