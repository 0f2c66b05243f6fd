"""The real tasks under DeepSpeed against plain torch: two workers, every ZeRO stage, whole and split batches."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v_ray.config import Recipe
from s2v_ray.training.engine import Engine, EngineConfig, EngineFactory, make_engine
from s2v_ray.training.tasks.distill import DistillTask
from s2v_ray.training.tasks.gan import GanTask
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.tasks import (
    BATCH,
    make_batch,
    make_clip_by_clip_task,
    make_distill_task,
    make_gan_clip_by_clip_task,
    make_gan_task,
    task_recipe,
)
from tests.helpers.workers import on_workers

STEPS = 3
STAGES = (0, 1, 2, 3)


def trained(make_task: Any, factory: EngineFactory, settings: Recipe, rank: int, world: int) -> dict[str, Any]:
    """Every parameter after a few steps, the logged scalars, and whether each player moved."""
    torch.manual_seed(rank)  # parameters and buffers must become those of worker 0
    parts = settings.parallel.accumulate
    config = EngineConfig(
        world_size=world,
        micro_batch=BATCH // parts,
        bf16=settings.parallel.bf16 == "on",
        grad_clip=1.0,
        accumulate=parts,
    )
    task = make_task(settings, functools.partial(factory, config=config), rank)
    before = weights(task)
    torch.manual_seed(1 + rank)  # dropout, spectrogram masks
    scalars = [{k: float(v) for k, v in task.step(make_batch(rank, step), step).items()} for step in range(STEPS)]
    after = weights(task)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    unsure = {
        f"{player}.{name}": mask
        for player, engine in engines(task).items()
        for name, mask in getattr(engine, "unsure", {}).items()
    }
    return {
        "weights": after,
        "scalars": scalars,
        "moved": moved,
        "ema": task.average.gathered() if isinstance(task, GanTask) else {},
        "unsure": unsure,
    }


def engines(task: DistillTask | GanTask) -> dict[str, Engine]:
    return {"student": task.engine} if isinstance(task, DistillTask) else task.engines


def weights(task: DistillTask | GanTask) -> dict[str, Tensor]:
    found = {}
    for player, engine in engines(task).items():
        with engine.gathered_parameters():
            found |= {f"{player}.{name}": p.detach().clone() for name, p in engine.module.named_parameters()}
    return found


def all_stages(rank: int, world: int, make_task: Any, parallel: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    plain = {"plain": trained(make_task, make_plain_engine, task_recipe(0), rank, world)}
    return plain | {
        stage: trained(make_task, make_engine, task_recipe(stage, **parallel), rank, world) for stage in STAGES
    }


def both_precisions(rank: int, world: int, make_task: Any) -> dict[str, Any]:
    return {bf16: trained(make_task, make_engine, task_recipe(1, bf16=bf16), rank, world) for bf16 in ("off", "on")}


@pytest.mark.slow
@pytest.mark.parametrize("make_task", [make_clip_by_clip_task, make_gan_task])
def test_in_bf16_the_first_step_is_that_of_fp32_but_for_rounding(make_task: Any) -> None:
    """On any CPU, by emulation where it has none: what ``parallel.bf16: auto`` runs on machines that have it."""
    for result in on_workers(2, both_precisions, make_task):
        exact, rounded = result["off"], result["on"]
        assert {w.dtype for w in rounded["weights"].values()} == {torch.float32}
        assert rounded["moved"] == exact["moved"]
        differences = {
            name: abs(rounded["scalars"][0][name] - value) / (1 + abs(value))
            for name, value in exact["scalars"][0].items()
        }
        differences.pop("contrast", None)  # of codes that nothing has told apart yet it sees the rounding errors alone
        assert 0.0 < max(differences.values()) < 0.04  # 0: autocast was not on
        assert differences.get("g_sync", 0.0) < 1e-3  # movement is small beside looks


BETWEEN_CLIPS = ("contrast", "emotion_in_identity", "identity_in_emotion")
IN_PARTS = {"accumulate": 2, "checkpoint_activations": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_task", "parallel"),
    [
        (make_distill_task, {}),
        (make_gan_task, {}),
        (make_clip_by_clip_task, IN_PARTS),
        (make_gan_clip_by_clip_task, IN_PARTS),
    ],
)
def test_steps_equal_plain_torch(make_task: Any, parallel: dict[str, Any]) -> None:
    results = on_workers(2, all_stages, make_task, parallel)
    torch.testing.assert_close(results[0]["plain"]["weights"], results[1]["plain"]["weights"], rtol=0.0, atol=0.0)
    moved = results[0]["plain"]["moved"]
    players = (
        {"student"}
        if make_task in (make_distill_task, make_clip_by_clip_task)
        else {"generator", *(f"discriminators.members.{n}" for n in ("frame", "mouth", "sync", "emotion"))}
    )
    assert {p for p in players if not any(name.startswith(p) for name in moved)} == set()
    unsure = results[0]["plain"]["unsure"]
    # The gradient of the sync network is a hundredth of that of the frame discriminator, so most of its weights count.
    assert sum(int(m.sum()) for m in unsure.values()) < 0.4 * sum(m.numel() for m in unsure.values())
    for result in results:
        skip = BETWEEN_CLIPS if parallel else ()
        expected = sure(result["plain"], unsure, skip)
        for stage in STAGES:
            found = sure(result[stage], unsure, skip)
            for what, value in expected.items():
                # In parts, sums are added in another order; a step moves the discriminators by 1e-3, the others, whose
                # rate begins to rise, by some 1e-5.
                atol = 1e-5 if parallel and what == "discriminators" else 1e-6
                torch.testing.assert_close(
                    found[what], value, rtol=1e-5, atol=atol, msg=lambda m, s=stage: f"stage {s}: {m}"
                )


def sure(result: dict[str, Any], unsure: dict[str, Tensor], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Weights, averages and scalars except those to ``skip``, without the weights that follow rounding errors."""
    masks = {name.removeprefix("generator."): mask for name, mask in unsure.items()}
    players = sorted({name.split(".")[0] for name in result["weights"]})
    return {
        **{
            player: {name: w[~unsure[name]] for name, w in result["weights"].items() if name.startswith(f"{player}.")}
            for player in players
        },
        "ema": {name: w[~masks[name]] for name, w in result["ema"].items()},
        "scalars": [{k: v for k, v in step.items() if k not in skip} for step in result["scalars"]],
    }
