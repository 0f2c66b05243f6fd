"""State of one engine continued by another: other numbers of workers, stages and engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2v_ray.training.engine import EngineFactory, make_engine
from s2v_ray.training.engine.reshard import copy_weights, optimizer_state_like, shard_of
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.toy_gan import adam, config, train_gan, with_deepspeed
from tests.helpers.workers import on_workers


def saved(rank: int, world: int, folder: str, factory: EngineFactory) -> None:
    for stage in (0, 1, 2, 3):
        train_gan(rank, world, factory, stage, steps=2, folder=f"{folder}/{stage}")


def continued(
    rank: int, world: int, folder: str, saved_by: int, factory: EngineFactory
) -> dict[int, dict[str, Tensor]]:
    settings: dict[str, Any] = {"steps": 4, "start": 2, "saved_by": saved_by}
    return {
        stage: train_gan(rank, world, factory, stage, folder=f"{folder}/{stage}", **settings)["state"]
        for stage in (0, 1, 2, 3)
    }


def undisturbed(rank: int, world: int) -> dict[str, Any]:
    return train_gan(rank, world, make_plain_engine, 0, steps=4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "saver", "reader"),
    [
        (2, 1, make_engine, make_engine),
        (1, 2, make_engine, make_engine),
        (2, 1, make_engine, with_deepspeed),
        (1, 2, with_deepspeed, make_engine),
        (1, 1, with_deepspeed, make_engine),
        (1, 1, make_engine, with_deepspeed),
    ],
)
def test_another_engine_continues_from_the_same_optimizer_state(
    tmp_path: Any, before: int, after: int, saver: EngineFactory, reader: EngineFactory
) -> None:
    plain = on_workers(after, undisturbed)[0]
    sure = {
        name: ~mask for name, mask in plain["unsure"].items()
    }  # the rest follows rounding errors, which another sum makes others
    assert sum(int(mask.sum()) for mask in sure.values()) > 0.9 * sum(mask.numel() for mask in sure.values())
    expected = {name: value[sure[name]] for name, value in plain["state"].items()}
    on_workers(before, saved, str(tmp_path), saver)
    for result in on_workers(after, continued, str(tmp_path), before, reader):
        for stage in (0, 1, 2, 3):
            found = {name: value[sure[name]] for name, value in result[stage].items()}
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=lambda m, s=stage: f"stage {s}: {m}")


def unmoved(rank: int, world: int, folder: str, factory: EngineFactory, write: bool) -> dict[int, dict[str, Tensor]]:
    """State saved before the first step, as by a run that skipped all batches, read by an engine with other weights."""
    found = {}
    for stage in (0, 1, 2, 3):
        torch.manual_seed(0 if write else 1)
        module, place = nn.Linear(5, 7), f"{folder}/{stage}"
        engine = factory(module, [{"params": module.parameters()}], adam(1e-2), config(world), zero_stage=stage)
        if write:
            Path(place).mkdir(parents=True)
            for file, content in engine.snapshot().items():
                torch.save(content, f"{place}/{file}")
        else:
            engine.load(place, reshard=True)
            engine.backward(engine(torch.ones(4, 5)).square().sum())
            engine.step()
        with engine.gathered_parameters():
            found[stage] = {name: value.clone() for name, value in engine.module.state_dict().items()}
    return found


@pytest.mark.slow
def test_what_was_saved_before_the_first_step_is_read_too(tmp_path: Any) -> None:
    (before,) = on_workers(1, unmoved, str(tmp_path), make_engine, True)
    for result in on_workers(2, unmoved, str(tmp_path), make_engine, False):
        for stage in (0, 1, 2, 3):
            for name, value in before[stage].items():  # Adam's first step is lr, whatever the gradient
                torch.testing.assert_close(
                    (result[stage][name] - value).abs(), torch.full_like(value, 1e-2), rtol=1e-3, atol=0.0
                )


def test_shards_of_a_parameter_are_padded_at_the_end() -> None:
    value = torch.arange(6.0).reshape(2, 3)
    parts = [shard_of(value, 4, rank).tolist() for rank in (0, 1)]
    assert parts == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 0.0, 0.0]]


def test_flat_optimizer_state_gets_the_shape_of_its_parameter() -> None:
    state = {"exp_avg": torch.arange(6.0), "step": torch.tensor(3.0)}
    found = optimizer_state_like(torch.zeros(2, 3), state)
    assert found["exp_avg"].tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]] and found["step"] == 3.0
    assert found["exp_avg"].data_ptr() != state["exp_avg"].data_ptr()


def test_weights_and_buffers_are_copied_in_place() -> None:
    source, target = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    source.weight.data.fill_(5.0)
    source.running_mean.fill_(7.0)  # type: ignore[union-attr]  # tracked by default
    parameter = target.weight
    copy_weights(target, source.state_dict())
    assert target.weight is parameter and parameter.tolist() == [5.0, 5.0]
    assert target.running_mean.tolist() == [7.0, 7.0]  # type: ignore[union-attr]  # tracked by default
