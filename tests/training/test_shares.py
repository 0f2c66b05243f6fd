"""Shares of a batch: weights, gathered codes, and steps on 5, 6 and 7 workers that equal those of a single one."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from s2v_ray.clip import SpeechBatch
from s2v_ray.models.student import Student, StudentOutput
from s2v_ray.training import collective
from s2v_ray.training.engine import EngineConfig
from s2v_ray.training.shares import Shares
from s2v_ray.training.tasks.distill import DistillTask
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.tasks import EMOTIONS, IDENTITY, SPEECH, make_context, task_recipe
from tests.helpers.toy_gan import adam
from tests.helpers.workers import on_workers

CLIPS, STEPS = 128, 3


def test_weights_by_hand() -> None:
    shares = Shares(((2, 1), (1, 1)), 0)
    assert shares.total == 5
    assert [shares.weight(part) for part in (0, 1)] == [2 * 2 / 5, 2 * 1 / 5]
    assert [shares.whole_weight(part) for part in (0, 1)] == [3 / 5, 2 / 5]
    equal = Shares(((4,), (4,)), 1)
    assert equal.weight(0) == 1.0 == equal.whole_weight(0)


def test_scalars_are_means_over_all_clips() -> None:
    first, second = Shares(((2, 1), (1, 1)), 0), Shares(((2, 1), (1, 1)), 1)
    own = first.mean([{"a": 1.0, "b": 10.0}, {"a": 2.0, "b": 20.0}], whole=["b"])
    other = second.mean([{"a": 3.0, "b": 10.0}, {"a": 4.0, "b": 20.0}], whole=["b"])
    assert (own["a"] + other["a"]) / 2 == pytest.approx((2 * 1.0 + 2.0 + 3.0 + 4.0) / 5)
    assert own["b"] == other["b"] == pytest.approx((3 * 10.0 + 2 * 20.0) / 5)


def test_a_single_worker_has_all_clips() -> None:
    shares, codes = Shares.of_workers([3]), torch.ones(3, 2)
    assert shares == Shares(((3,),), 0) and shares.gathered(codes, 0) is codes
    assert Shares.of_workers([3], shares) is shares and Shares.of_workers([4], shares).sizes == ((4,),)


class LinearStudent(Student):
    """A student in float64, so that sums in another order differ by 1e-16 only."""

    def __init__(self) -> None:
        super().__init__(task_recipe().student, IDENTITY, EMOTIONS)
        self.identity = nn.Linear(SPEECH, IDENTITY)  # type: ignore[assignment]  # of features, not of mel bands
        self.emotion = nn.Linear(SPEECH, 4)  # type: ignore[assignment]  # likewise
        self.double()

    def forward(self, speech: Tensor, mask: Tensor | None = None, *, content: bool = True) -> StudentOutput:
        features = speech.unflatten(1, (SPEECH, -1)).mean(2)
        emotion = self.emotion(features).tanh()
        logits = 3 * emotion[:, : len(EMOTIONS)]
        return StudentOutput(F.normalize(self.identity(features), dim=-1), emotion, logits, logits[:, None], features)


def whole_batch(step: int) -> SpeechBatch:
    rng = torch.Generator().manual_seed(step)
    draw = functools.partial(torch.randn, generator=rng, dtype=torch.float64)
    identity, emotion = F.normalize(draw(CLIPS, IDENTITY), dim=-1), draw(CLIPS, SPEECH, len(EMOTIONS))
    mask = torch.ones(CLIPS, SPEECH, dtype=torch.bool)
    return SpeechBatch(speech=draw(CLIPS, SPEECH * 2), speech_mask=mask, identity=identity, emotion=emotion)


def distilled(rank: int, world: int) -> dict[str, Any]:
    """The real step of distillation: weights, mean emotion codes and scalars."""
    torch.manual_seed(rank)
    engines = functools.partial(make_plain_engine, config=EngineConfig(world, grad_clip=1.0))
    task = DistillTask(make_context(task_recipe(), engines, rank), LinearStudent(), {})
    task.emotion_in_identity.memory = 0.5
    scalars = []
    for step in range(1, STEPS + 1):
        found = task.step(whole_batch(step).split(world)[rank], step)
        values = torch.stack([torch.as_tensor(value).double() for value in found.values()])
        scalars.append(dict(zip(found, collective.mean(values).tolist(), strict=True)))
    return {"state": task.engine.module.state_dict(), "scalars": scalars, "covariances": task.state()}


def toy(rank: int, world: int) -> dict[str, Tensor]:
    """A clip-wise loss, in two micro-batches, and one that compares the clips with their mean."""
    torch.manual_seed(rank)
    module = nn.Linear(SPEECH, 3).double()
    engine = make_plain_engine(module, [{"params": module.parameters()}], adam(1e-2), EngineConfig(world, accumulate=2))
    shares: Shares | None = None
    for step in range(STEPS):
        parts = whole_batch(step).split(world)[rank].split(2)
        shares = Shares.of_workers([len(part.speech) for part in parts], shares)
        for i, part in enumerate(parts):
            made = engine(part.speech.unflatten(1, (SPEECH, -1)).mean(2))
            engine.backward(shares.weight(i) * (made - 1).square().mean())
        engine.step()
        (part,) = whole_batch(step).split(world)[rank].split(1)
        whole = Shares.of_workers([len(part.speech)])
        codes = whole.gathered(engine(part.speech.unflatten(1, (SPEECH, -1)).mean(2)), 0)
        engine.backward(whole.whole_weight(0) * (codes - codes.mean(0)).pow(4).mean())
        engine.step()
    return {name: value.clone() for name, value in module.state_dict().items()}


def both(rank: int, world: int) -> dict[str, Any]:
    return {"distilled": distilled(rank, world), "toy": toy(rank, world)}


@pytest.mark.slow
@pytest.mark.parametrize("world", [5, 6, 7])
def test_a_batch_of_128_on_any_number_of_workers_gives_the_step_of_one_worker(world: int) -> None:
    alone = both(0, 1)
    assert alone["distilled"]["state"]["emotion_codes"].any()
    for found in on_workers(world, both):
        torch.testing.assert_close(found, alone, rtol=0.0, atol=1e-9)
