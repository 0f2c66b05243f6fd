from __future__ import annotations

import pytest
import torch

from s2v_ray.config import Recipe
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.generator import ClipCodes
from s2v_ray.models.speech2video import Speech2Video, TrainingInputs
from tests.helpers.recipes import tiny_recipe

B, T, P, L = 3, 4, 2, 30


@pytest.fixture
def recipe() -> Recipe:
    torch.manual_seed(0)
    return tiny_recipe(
        student={"width": 16, "layers": 2},
        gan={"generator": {"channels": [16, 16, 8, 8], "take_dim": 3, "motion_dim": 2, "take_width": 4}},
    )


def make_inputs(sampled: list[bool]) -> TrainingInputs:
    random = torch.Generator().manual_seed(0)
    return TrainingInputs(
        speech=0.1 * torch.randn(B, frames_to_samples(L), generator=random),
        speech_mask=torch.ones(B, L, dtype=torch.bool),
        index=torch.tensor([[3, 4, 5, 6], [0, 9, 11, 29], [1, 2, 20, 21]]),
        frames=torch.rand(B, T, 3, 32, 32, generator=random) * 2 - 1,
        references=torch.rand(B, P, 3, 32, 32, generator=random) * 2 - 1,
        sampled=torch.tensor(sampled),
        white_take=torch.randn(B, 3, generator=random),
        white_motion=torch.randn(B, T, 2, generator=random),
        noise=torch.randn(B, T, 1, 32, 32, generator=random),
    )


def test_frames_are_those_of_the_generator_at_the_given_positions(recipe: Recipe) -> None:
    model, inputs = Speech2Video(recipe, 8, ("sad", "glad")).eval(), make_inputs([False, False, True])
    with torch.no_grad():
        made = model(inputs)
        codes = model.student(inputs.speech)
        moved = model.motion_encoder(torch.cat([inputs.references, inputs.frames], 1))
        centre = moved.mean[:, :P].mean(1, keepdim=True)
        motion = moved.mean[:, P:] - centre + (moved.log_variance[:, P:] / 2).exp() * inputs.white_motion
        found = model.take_encoder(inputs.references)
        content = codes.content[1:2, [0, 9, 11, 29]]
        own = found.mean[1].mean(0) + (found.log_variance[1].mean(0) / 2).exp() * inputs.white_take[1]
        expected = model.generator(
            ClipCodes(codes.identity[1:2], codes.emotion[1:2], own[None]), content, motion[1:2], inputs.noise[1:2]
        )
    torch.testing.assert_close(made.frames[1:2], expected, atol=1e-5, rtol=1e-4)


def test_a_sampled_clip_gets_take_and_motion_of_another_clip(recipe: Recipe) -> None:
    model, inputs = Speech2Video(recipe, 8, ("sad", "glad")).eval(), make_inputs([False, False, True])
    with torch.no_grad():
        made = model(inputs)
        inputs.sampled[:] = False
        own = model(inputs)
        inputs.sampled[2] = True
        torch.testing.assert_close(made.take[2], own.take[1])
        inputs.references[2] = -inputs.references[2]
        inputs.frames[2] = -inputs.frames[2]
        changed = model(inputs)
    torch.testing.assert_close(changed.frames[2], made.frames[2], atol=1e-6, rtol=0)
    assert not torch.allclose(changed.frames[2], own.frames[2])
    assert not torch.allclose(changed.kl_take, made.kl_take)


def test_the_known_take_of_a_clip(recipe: Recipe) -> None:
    model, inputs = Speech2Video(recipe, 8, ("sad", "glad")).eval(), make_inputs([False, False, False])
    identity = torch.tensor([3.0, 0, 0, 0, 0, 0, 0, -4.0])
    known, codes = model.known_take(inputs.frames[1], inputs.speech[1], identity), model.student(inputs.speech[1:2])
    found = model.take_encoder(inputs.frames[1:2])
    torch.testing.assert_close(known.mean, found.mean[0].mean(0))
    torch.testing.assert_close(known.log_variance, found.log_variance[0].mean(0))
    torch.testing.assert_close(known.identity, identity / 5.0)
    torch.testing.assert_close(known.emotion, codes.emotion[0])


def test_motion_of_a_still_is_zero(recipe: Recipe) -> None:
    model = Speech2Video(recipe, 8, ("sad", "glad")).eval()
    frames = torch.rand(1, 3, 32, 32).expand(5, -1, -1, -1)
    torch.testing.assert_close(model.motion_of(frames), torch.zeros(5, 2), atol=1e-6, rtol=0)
    assert model.take_of(frames[:1]).shape == (1, 3)


def test_the_reference_baseline_gets_the_first_reference_frame_as_still(recipe: Recipe) -> None:
    model, inputs = Speech2Video(recipe.with_reference(True), 8, ("sad", "glad")).eval(), make_inputs([False] * 3)
    with torch.no_grad():
        made = model(inputs).frames
        seen: list[torch.Tensor] = []
        model.generator.register_forward_pre_hook(lambda _, args: seen.append(args[0].still))
        torch.testing.assert_close(model(inputs).frames, made)
    assert torch.equal(seen[0], inputs.references[:, 0])
