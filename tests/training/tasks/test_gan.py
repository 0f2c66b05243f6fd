"""The GAN's step: which parameters it trains, and with which gradient."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from s2v_ray.clip import to_unit
from s2v_ray.losses.reconstruction import weighted_l1
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.engine import EngineConfig
from s2v_ray.training.tasks import gan
from s2v_ray.training.tasks.adversaries import pictures
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.tasks import BATCH, make_batch, make_gan_task, task_recipe


def steps(distilled: bool, accumulate: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The model's weights before and after two steps, and those of its moving average."""
    settings = task_recipe(0, accumulate=accumulate)
    latent = settings.gan.latent.model_copy(update={"sampled": 0.0})  # a part of one clip has no sampled one
    changes = {"distilled": distilled, "latent": latent}
    settings = settings.model_copy(update={"gan": settings.gan.model_copy(update=changes)})
    torch.manual_seed(0)
    task = make_gan_task(
        settings, functools.partial(make_plain_engine, config=EngineConfig(micro_batch=BATCH, grad_clip=1.0)), 0
    )
    model: Speech2Video = task.generator.module
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(2):
        task.step(make_batch(0, step), step)
    return before, dict(model.named_parameters()), dict(task.averaged().named_parameters())


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of the student that are not what they were."""
    return {
        name.split(".")[1]
        for name, p in after.items()
        if name.startswith("student.") and not torch.equal(p, before[name])
    }


@pytest.mark.parametrize("accumulate", [1, 2])
def test_identity_and_emotion_encoders_are_fixed_unless_distilled_is_false(accumulate: int) -> None:
    before, after, averaged = steps(True, accumulate)
    assert moved(before, after) == moved(before, averaged) == {"content", "content_out"}
    before, after, averaged = steps(False, accumulate)
    assert moved(before, after) == moved(before, averaged) == {"content", "content_out", "identity", "emotion"}


def test_a_batch_in_parts_trains_the_student_as_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "SAME_IDENTITY", -2.0)  # no term that compares clips with each other
    _, whole, _ = steps(False, 1)
    _, parts, _ = steps(False, 2)
    apart = torch.cat([(whole[name] - parts[name]).abs().flatten() for name in whole])
    assert apart.quantile(0.99) < 1e-6  # rounding alone
    # For comparison: what training the student changes in the generator.
    effect = whole["generator.out.weight"] - steps(True, 1)[0]["generator.out.weight"]
    assert effect.abs().max() > 3e-5


def make_task(**gan_settings: object) -> gan.GanTask:
    torch.manual_seed(0)
    settings = task_recipe(0)
    settings = settings.model_copy(update={"gan": settings.gan.model_copy(update=gan_settings)})
    factory = functools.partial(make_plain_engine, config=EngineConfig(micro_batch=BATCH))
    return make_gan_task(settings, factory, 0)


def test_half_of_the_clips_get_a_sampled_take_from_its_start_on() -> None:
    task = make_task()
    assert task.recipe.gan.latent.start == 1
    assert not task._micro_batches(make_batch(0, 0), 0)[0].inputs.sampled.any()
    assert task._micro_batches(make_batch(0, 1), 1)[0].inputs.sampled.sum() == BATCH // 2


def test_the_gradient_on_the_frames_is_that_of_the_terms_in_their_shares() -> None:
    task, batch = make_task(), make_batch(0, 0)
    task.step(batch, 0)
    seen: list[Tensor] = []
    backward = task.generator.backward

    def spy(loss: Tensor) -> None:
        generated.made.versions.register_hook(seen.append)
        backward(loss)

    inner = task._generate

    def generate(*args: object, **kwargs: object) -> gan.Generated:
        nonlocal generated
        generated = inner(*args, **kwargs)  # type: ignore[arg-type]
        return generated

    generated: gan.Generated
    task._generate = generate  # type: ignore[method-assign]
    task.generator.backward = spy  # type: ignore[method-assign]
    squares = dict(task.balance.squares)
    task.step(make_batch(0, 0), 0)
    clean, frames = (version.detach().requires_grad_(True) for version in generated.made.versions)
    l1 = weighted_l1(clean, to_unit(batch.frames), 1 + task.recipe.gan.mouth * task.mask)
    torch.testing.assert_close(seen[0][0], torch.autograd.grad(l1, clean)[0])
    expected = torch.zeros_like(frames)
    assert task.discriminators is not None
    for name, member in task.discriminators.module.items():
        if name == "emotion":  # starts later
            continue
        for part, term in member.generator_terms(generated.inputs, frames).items():
            key, weight = (name, member.schedule.weight) if part == "loss" else (f"{name}_features", 0.2)
            if weight:
                scale = weight * (squares["reconstruction"] / squares[key]) ** 0.5
                expected = expected + scale * torch.autograd.grad(term, frames, retain_graph=True)[0]
    # The discriminators were updated between the two; their terms differ a little.
    found = seen[0][1]
    cosine = torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    assert cosine > 0.999 and found.norm() == pytest.approx(expected.norm().item(), rel=0.02)


def test_state_restores_averages_of_gradient_norms() -> None:
    task, other = make_task(), make_task()
    task.step(make_batch(0, 0), 0)
    other.load_state(task.state())
    assert other.balance.squares == task.balance.squares and "reconstruction" in other.balance.squares
    assert task.sharded.keys() == {"generator", "discriminators", "average"}
