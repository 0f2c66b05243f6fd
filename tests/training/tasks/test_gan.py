"""The GAN's step: which parameters it trains, and the augmentation of frames and stills."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v_ray.clip import to_unit
from s2v_ray.config import AugmentConfig
from s2v_ray.media.augment import augment
from s2v_ray.models.generator import Speech2Video
from s2v_ray.training.engine import EngineConfig
from s2v_ray.training.tasks import gan
from s2v_ray.training.tasks.adversaries import Adversaries
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.tasks import BATCH, EMOTIONS, IDENTITY, make_batch, make_context, make_gan_task, task_recipe

AUGMENTED = AugmentConfig(flip=0.5, rotation=5, brightness=0.1)


def steps(distilled: bool, accumulate: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The model's weights before and after two steps, and those of its moving average."""
    settings = task_recipe(0, accumulate=accumulate)
    settings = settings.model_copy(update={"gan": settings.gan.model_copy(update={"distilled": distilled})})
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


def test_a_batch_in_parts_trains_the_student_as_the_whole_does() -> None:
    _, whole, _ = steps(False, 1)
    _, parts, _ = steps(False, 2)
    apart = torch.cat([(whole[name] - parts[name]).abs().flatten() for name in whole])
    assert apart.quantile(0.99) < 1e-6  # rounding alone
    # For comparison: what training the student changes in the generator.
    effect = whole["generator.out.weight"] - steps(True, 1)[0]["generator.out.weight"]
    assert effect.abs().max() > 3e-5


def one_step(
    config: AugmentConfig, step: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The real frames of losses and discriminators, the still of the generator, and the scalars."""
    torch.manual_seed(0)
    settings = task_recipe(0).model_copy(update={"augment": config}).with_reference(True)
    model, adversaries = Speech2Video(settings, IDENTITY, EMOTIONS), Adversaries(settings, IDENTITY, len(EMOTIONS))
    factory = functools.partial(make_plain_engine, config=EngineConfig(micro_batch=BATCH, grad_clip=1.0))
    task = gan.GanTask(make_context(settings, factory, rank), model, adversaries, {})
    seen: dict[str, Tensor] = {}

    def remember(_: Any, args: tuple[Any, ...]) -> None:
        seen["still"] = args[4]

    inner = gan.weighted_l1

    def l1(fake: Tensor, real: Tensor, *rest: Any) -> Tensor:
        seen["loss"] = real
        return inner(fake, real, *rest)

    monkeypatch.setattr(gan, "weighted_l1", l1)
    inputs = task._inputs

    def spy(part: Any, identity: Tensor) -> Any:
        seen["real"] = part.real
        return inputs(part, identity)

    monkeypatch.setattr(task, "_inputs", spy)
    model.register_forward_pre_hook(remember)
    scalars = {k: float(v) for k, v in task.step(make_batch(rank, step), step).items()}
    assert seen["loss"] is seen["real"]
    monkeypatch.undo()
    return seen["real"], seen["still"], scalars


def test_off_leaves_the_step_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    real, still, scalars = one_step(AugmentConfig(), 1, 0, monkeypatch)
    assert torch.equal(real, to_unit(make_batch(0, 1).frames)) and torch.equal(still, to_unit(make_batch(0, 1).still))
    monkeypatch.setattr(gan, "augment", lambda frames, *_: frames)
    assert one_step(AugmentConfig(), 1, 0, monkeypatch)[2] == scalars


def test_frames_and_still_get_the_draw_of_seed_step_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    real, still, _ = one_step(AUGMENTED, 2, 1, monkeypatch)
    both = torch.cat([to_unit(make_batch(1, 2).frames), to_unit(make_batch(1, 2).still)[:, None]], 1)
    expected = augment(both, AUGMENTED, (0, 2, 1))
    assert torch.equal(real, expected[:, :-1]) and torch.equal(still, expected[:, -1])
    assert not torch.equal(real, to_unit(make_batch(1, 2).frames))
    again, _, _ = one_step(AUGMENTED, 2, 1, monkeypatch)
    assert torch.equal(again, real)
