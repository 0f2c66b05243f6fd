"""The recipe's augmentation in the GAN's step: frames and still get the same draw; nothing changes when it is off."""

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
from tests.training.engine.test_parity import BATCH, EMOTIONS, IDENTITY, batch, context, recipe

ON = AugmentConfig(flip=0.5, rotation=5, brightness=0.1)


def one_step(
    config: AugmentConfig, step: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The real frames of losses and discriminators, the still of the generator, and the scalars."""
    torch.manual_seed(0)
    settings = recipe(0).model_copy(update={"augment": config}).with_reference(True)
    model, adversaries = Speech2Video(settings, IDENTITY, EMOTIONS), Adversaries(settings, IDENTITY, len(EMOTIONS))
    factory = functools.partial(make_plain_engine, config=EngineConfig(micro_batch=BATCH, grad_clip=1.0))
    task = gan.GanTask(context(settings, factory, rank), model, adversaries, {})
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
    scalars = {k: float(v) for k, v in task.step(batch(rank, step), step).items()}
    assert seen["loss"] is seen["real"]
    monkeypatch.undo()
    return seen["real"], seen["still"], scalars


def test_off_leaves_the_step_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    real, still, scalars = one_step(AugmentConfig(), 1, 0, monkeypatch)
    assert torch.equal(real, to_unit(batch(0, 1).frames)) and torch.equal(still, to_unit(batch(0, 1).still))
    monkeypatch.setattr(gan, "augment", lambda frames, *_: frames)
    assert one_step(AugmentConfig(), 1, 0, monkeypatch)[2] == scalars


def test_frames_and_still_get_the_draw_of_seed_step_and_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    real, still, _ = one_step(ON, 2, 1, monkeypatch)
    both = torch.cat([to_unit(batch(1, 2).frames), to_unit(batch(1, 2).still)[:, None]], 1)
    expected = augment(both, ON, (0, 2, 1))
    assert torch.equal(real, expected[:, :-1]) and torch.equal(still, expected[:, -1])
    assert not torch.equal(real, to_unit(batch(1, 2).frames))
    again, _, _ = one_step(ON, 2, 1, monkeypatch)
    assert torch.equal(again, real)
