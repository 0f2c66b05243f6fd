"""DeepSpeed against plain torch, on two workers, at every ZeRO stage that recipes offer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s2v_ray.training.engine import EngineConfig, EngineFactory, deepspeed_api, make_engine
from s2v_ray.training.engine.deepspeed import deepspeed_config
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.toy_gan import GRAD_CLIP, STEPS, adam, config, train_gan, with_deepspeed
from tests.helpers.workers import on_workers

BUCKET = deepspeed_api.BUCKET_ELEMENTS


def all_stages(rank: int, world: int) -> dict[Any, dict[str, Any]]:
    found = {"plain": train_gan(rank, world, make_plain_engine, 0)} | {
        stage: train_gan(rank, world, with_deepspeed, stage) for stage in (0, 1, 2)
    }
    return found | ({"torch": train_gan(rank, world, make_engine, 2)} if world == 1 else {})


def interrupted(rank: int, world: int, folder: str) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    pairs = []
    for stage in (0, 1, 2):
        place = f"{folder}/{stage}"
        whole = train_gan(rank, world, make_engine, stage, steps=4)
        train_gan(rank, world, make_engine, stage, steps=2, folder=place)
        pairs.append(
            (
                whole["state"],
                train_gan(rank, world, make_engine, stage, steps=4, folder=place, start=2, saved_by=world)["state"],
            )
        )
    return pairs


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_gan_steps_equal_plain_torch_at_every_stage(world: int) -> None:
    results = on_workers(world, all_stages)
    plain = results[0]["plain"]
    assert min(plain["norms"]) > GRAD_CLIP  # clipping took part
    for result in results:
        assert ("torch" in result) == (world == 1)
        for stage in result.keys() - {"plain"}:
            torch.testing.assert_close(
                result[stage]["state"], plain["state"], rtol=1e-5, atol=1e-7, msg=lambda m, s=stage: f"stage {s}: {m}"
            )
            if stage:  # stage 0 tells no norm
                torch.testing.assert_close(result[stage]["norms"], plain["norms"], rtol=1e-5, atol=0.0)


def gathered(
    rank: int, world: int, factory: EngineFactory, stage: int, offload: dict[str, bool], parts: int
) -> dict[str, Tensor]:
    """Weights after steps on batches in ``parts``; one batch is begun and given up, as one with a NaN would be."""
    torch.manual_seed(0)
    deepspeed_api.BUCKET_ELEMENTS = 100 if stage == 3 else BUCKET  # so that stage 3 gathers layer by layer
    module = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 6))
    settings = config(
        world, micro_batch=4 // parts, accumulate=parts, offload_optimizer=offload.get("offload_optimizer", False)
    )
    sharding = {"zero_stage": stage, "offload_param": offload.get("offload_param", False)}
    engine = factory(module, [{"params": module.parameters()}], adam(3e-2, 0.1), settings, **sharding)
    for step in range(STEPS):
        x, y = (torch.randn(4, n, generator=torch.Generator().manual_seed(10 * step + rank)) for n in (5, 6))
        if parts > 1 and step != 1:  # before any step, and between two
            engine.backward(7.0 * engine(x).square().mean())
            engine.discard_gradients()
        for part, target in zip(x.split(4 // parts), y.split(4 // parts), strict=True):
            engine.backward((engine(part) - target).square().mean() / parts)
        engine.step()
    with engine.gathered_parameters():
        return {name: value.clone() for name, value in engine.module.state_dict().items()}


def every_gathering(rank: int, world: int) -> dict[str, dict[str, Tensor]]:
    found = {"plain": gathered(rank, world, make_plain_engine, 0, {}, 1)}
    for stage in (0, 1, 2, 3):
        for offload in ([], ["offload_optimizer"], ["offload_param"], ["offload_optimizer", "offload_param"]):
            if ("offload_optimizer" not in offload or stage) and ("offload_param" not in offload or stage == 3):
                for parts in (1, 2):
                    settings = dict.fromkeys(offload, True)
                    found[f"stage {stage} {offload} in {parts}"] = gathered(
                        rank, world, make_engine, stage, settings, parts
                    )
    return found


@pytest.mark.slow
def test_batches_in_parts_and_offloaded_states_equal_plain_torch() -> None:
    for result in on_workers(2, every_gathering):
        assert len(result) == 1 + 2 * (1 + 2 + 2 + 4)
        for name, weights in result.items():
            torch.testing.assert_close(
                weights, result["plain"], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_load_continues_exactly(tmp_path: Any, world: int) -> None:
    for pairs in on_workers(world, interrupted, str(tmp_path)):
        for whole, resumed in pairs:
            torch.testing.assert_close(resumed, whole, rtol=0.0, atol=0.0)


def test_settings_whose_defaults_do_not_suit_small_models_are_set() -> None:
    found = deepspeed_config(EngineConfig(micro_batch=4, grad_clip=0.5, accumulate=2, offload_optimizer=True), 3, True)
    assert found["train_micro_batch_size_per_gpu"] == 4 and found["gradient_clipping"] == 0.5
    assert found["managed_gradient_accumulation"] is False and found["memory_efficient_linear"] is False
    zero = found["zero_optimization"]
    assert zero["stage"] == 3 and zero["reduce_bucket_size"] == zero["stage3_max_live_parameters"] == BUCKET
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "cpu"
    assert "offload_optimizer" not in deepspeed_config(EngineConfig(), 1)["zero_optimization"]
