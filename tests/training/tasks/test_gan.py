"""What the GAN's generator step moves, with and without a distilled student."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from s2v_ray.models.generator import Speech2Video
from s2v_ray.training.engine import EngineConfig
from tests.helpers.plain_engine import make_plain_engine
from tests.training.engine.test_parity import BATCH, batch, gan, recipe


def steps(distilled: bool, accumulate: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The model's weights before and after two steps, and those of its moving average."""
    settings = recipe(0, accumulate=accumulate)
    settings = settings.model_copy(update={"gan": settings.gan.model_copy(update={"distilled": distilled})})
    torch.manual_seed(0)
    task = gan(settings, functools.partial(make_plain_engine, config=EngineConfig(micro_batch=BATCH, grad_clip=1.0)), 0)
    model: Speech2Video = task.generator.module
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(2):
        task.step(batch(0, step), step)
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
