"""State of one engine continued by another: other numbers of workers, stages and engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2v_ray.training.engine import Engine, EngineFactory, make_engine
from s2v_ray.training.engine.deepspeed_api import padded_shard
from s2v_ray.training.shard_files import PieceFiles, write_pieces
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.toy_gan import adam, config, train_gan, with_deepspeed
from tests.helpers.workers import on_workers

ENGINES: dict[str, EngineFactory] = {"chosen": make_engine, "deepspeed": with_deepspeed}
"""``make_engine`` takes plain torch for a single worker."""
CASES = [
    (2, 1, "chosen", "chosen"),
    (1, 2, "chosen", "chosen"),
    (2, 1, "chosen", "deepspeed"),
    (1, 2, "deepspeed", "chosen"),
    (1, 1, "deepspeed", "chosen"),
    (1, 1, "chosen", "deepspeed"),
]
"""Workers before and after, engine that saves and engine that continues."""
STAGES = (0, 1, 2, 3)


def place(folder: str, case: str, stage: int) -> str:
    return f"{folder}/{case}/{stage}"


def save_states(rank: int, world: int, folder: str, engines: list[str]) -> dict[str, Any]:
    """Save the states of every engine and stage on ``world`` workers; return those of undisturbed training."""
    for name in engines:
        for stage in STAGES:
            train_gan(rank, world, ENGINES[name], stage, steps=2, folder=place(folder, f"{world}-{name}", stage))
    if world == 1:
        for stage in STAGES:
            save_initial(place(folder, "initial", stage), stage)
    return train_gan(rank, world, make_plain_engine, 0, steps=4)


def read_states(rank: int, world: int, folder: str) -> dict[str, Any]:
    """Continue in all cases that end on ``world`` workers; return the weights by case and stage."""
    found: dict[str, Any] = {}
    for before, after, saver, reader in CASES:
        if after != world:
            continue
        found[f"{before}-{saver}-{reader}"] = {
            stage: train_gan(
                rank,
                world,
                ENGINES[reader],
                stage,
                steps=4,
                start=2,
                saved_by=before,
                folder=place(folder, f"{before}-{saver}", stage),
            )["state"]
            for stage in STAGES
        }
    if world == 2:
        found["initial"] = {stage: read_initial(rank, place(folder, "initial", stage), stage) for stage in STAGES}
    return found


def save_initial(folder: str, stage: int) -> None:
    """Save the state before the first step, as of a run that skipped all batches."""
    engine = linear_engine(seed=0, world=1, stage=stage)
    Path(folder).mkdir(parents=True)
    write_pieces(Path(folder, "0.safetensors"), engine.snapshot())


def read_initial(rank: int, folder: str, stage: int) -> dict[str, Tensor]:
    """Read it with an engine that has other weights, and take a step."""
    engine = linear_engine(seed=1, world=2, stage=stage)
    engine.load(PieceFiles([Path(folder, "0.safetensors")] if rank == 0 else []))
    engine.backward(engine(torch.ones(4, 5)).square().sum())
    engine.step()
    with engine.gathered_parameters():
        return {name: value.clone() for name, value in engine.module.state_dict().items()}


def linear_engine(seed: int, world: int, stage: int) -> Engine:
    torch.manual_seed(seed)
    module = nn.Linear(5, 7)
    return make_engine(module, [{"params": module.parameters()}], adam(1e-2), config(world), zero_stage=stage)


@dataclass(frozen=True)
class Results:
    """What the workers returned.

    Attributes:
        undisturbed: by number of workers, plain torch without an interruption.
        continued: by number of workers, of each rank: case -> stage -> weights.
    """

    undisturbed: dict[int, dict[str, Any]]
    continued: dict[int, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Four starts of processes serve all cases: processes take most of the time, as each imports DeepSpeed."""
    folder = str(tmp_path_factory.mktemp("states"))
    undisturbed = {
        2: on_workers(2, save_states, folder, ["chosen"])[0],
        1: on_workers(1, save_states, folder, ["chosen", "deepspeed"])[0],
    }
    return Results(undisturbed, {world: on_workers(world, read_states, folder) for world in (1, 2)})


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after", "saver", "reader"), CASES)
def test_another_engine_continues_from_the_same_optimizer_state(
    results: Results, before: int, after: int, saver: str, reader: str
) -> None:
    plain = results.undisturbed[after]
    # Other entries follow rounding errors, which another sum makes others. Buffers are compared as a whole.
    sure = {name: torch.ones_like(value, dtype=torch.bool) for name, value in plain["state"].items()}
    sure |= {name: ~mask for name, mask in plain["unsure"].items()}
    assert sum(int(mask.sum()) for mask in sure.values()) > 0.9 * sum(mask.numel() for mask in sure.values())
    expected = {name: value[sure[name]] for name, value in plain["state"].items()}
    assert len(results.continued[after]) == after
    for worker in results.continued[after]:
        for stage in STAGES:
            state = worker[f"{before}-{saver}-{reader}"][stage]
            found = {name: value[sure[name]] for name, value in state.items()}
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=lambda m, s=stage: f"stage {s}: {m}")


@pytest.mark.slow
def test_what_was_saved_before_the_first_step_is_read_too(results: Results) -> None:
    torch.manual_seed(0)
    before = nn.Linear(5, 7).state_dict()
    for worker in results.continued[2]:
        for stage in STAGES:
            for name, value in before.items():  # Adam's first step is lr, whatever the gradient
                moved = (worker["initial"][stage][name] - value).abs()
                torch.testing.assert_close(moved, torch.full_like(value, 1e-2), rtol=1e-3, atol=0.0)


def test_shards_of_a_parameter_are_padded_at_the_end() -> None:
    value = torch.arange(6.0).reshape(2, 3)
    parts = [padded_shard(value, 4, rank).tolist() for rank in (0, 1)]
    assert parts == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 0.0, 0.0]]
