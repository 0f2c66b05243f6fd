from __future__ import annotations

import pytest
import torch

from s2v_ray.config import Recipe, load_recipe
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.generator import Generator, NoiseSequence, Speech2Video
from tests.helpers.recipes import tiny_recipe


@pytest.fixture
def recipe() -> Recipe:
    torch.manual_seed(0)
    return tiny_recipe(student={"width": 16, "layers": 2}, gan={"generator": {"channels": [16, 16, 8, 8]}})


def test_window_of_a_batch(recipe: Recipe) -> None:
    model = Speech2Video(recipe, 8, ("sad", "glad")).eval()
    speech, mask = 0.1 * torch.randn(2, frames_to_samples(30)), torch.ones(2, 30, dtype=torch.bool)
    noise = torch.zeros(2, 5, recipe.gan.generator.noise_dim)
    frames, codes = model(speech, mask, torch.tensor([3, 20]), noise)
    assert frames.shape == (2, 5, 3, 32, 32) and frames.abs().max() <= 1.0
    alone = model.generator(codes.identity[1:], codes.emotion[1:], codes.content[1:, 20:25], noise[1:])
    torch.testing.assert_close(frames[1:], alone)


def test_frames_do_not_depend_on_their_neighbours(recipe: Recipe) -> None:
    generator = Speech2Video(recipe, 8, ("sad", "glad")).generator.eval()
    codes = torch.randn(1, 8), torch.randn(1, recipe.student.emotion_dim)
    content, noise = torch.randn(1, 6, recipe.student.content_dim), torch.randn(1, 6, recipe.gan.generator.noise_dim)
    whole, part = generator(*codes, content, noise), generator(*codes, content[:, 2:4], noise[:, 2:4])
    torch.testing.assert_close(whole[:, 2:4], part, atol=1e-5, rtol=1e-4)


def test_the_frames_depend_on_every_code(recipe: Recipe) -> None:
    generator = Speech2Video(recipe, 8, ("sad", "glad")).generator
    dims = recipe.student.emotion_dim, recipe.student.content_dim, recipe.gan.generator.noise_dim
    inputs = [torch.randn(1, 8), torch.randn(1, dims[0]), torch.randn(1, 2, dims[1]), torch.randn(1, 2, dims[2])]
    for x in inputs:
        x.requires_grad_(True)
    generator(*inputs).square().sum().backward()
    assert all(x.grad is not None and x.grad.abs().max() > 0 for x in inputs)


def test_only_the_reference_baseline_takes_a_still(recipe: Recipe) -> None:
    still, z = torch.zeros(1, 3, 32, 32), recipe.gan.generator.noise_dim
    codes = (
        torch.randn(1, 8),
        torch.randn(1, recipe.student.emotion_dim),
        torch.randn(1, 2, recipe.student.content_dim),
        torch.randn(1, 2, z),
    )
    with pytest.raises(ValueError, match="only the reference baseline"):
        Speech2Video(recipe, 8, ("sad",)).generator(*codes, still)
    reference = Speech2Video(recipe.with_reference(True), 8, ("sad",)).generator
    with pytest.raises(ValueError, match="needs a still"):
        reference(*codes)
    assert not torch.allclose(reference(*codes, still), reference(*codes, still + 0.5))


def test_under_20_million_parameters_at_128() -> None:
    recipe = load_recipe("full")
    assert recipe.media.size == 128
    generator = Generator(
        recipe.gan.generator, 128, recipe.teach.embedding, recipe.student.emotion_dim, recipe.student.content_dim
    )
    assert sum(p.numel() for p in generator.parameters()) < 20e6


def test_noise_in_chunks_of_any_length_is_one_sequence() -> None:
    whole = NoiseSequence(2, 8, torch.Generator().manual_seed(3)).draw(50)
    pieces = NoiseSequence(2, 8, torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.cat([pieces.draw(1), pieces.draw(30), pieces.draw(19)], 1), whole, rtol=0, atol=0)


def test_noise_has_unit_variance_and_is_correlated_over_time() -> None:
    noise = NoiseSequence(64, 8, torch.Generator().manual_seed(0)).draw(200)
    assert noise.std().item() == pytest.approx(1.0, abs=0.05)
    assert (noise[:, 1:] * noise[:, :-1]).mean().item() == pytest.approx(0.9, abs=0.05)
