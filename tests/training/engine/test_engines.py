"""Engines against plain torch, on two workers, at every ZeRO stage the recipes offer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2v_ray.training.engine import (
    Engine,
    EngineConfig,
    EngineFactory,
    OptimizerConfig,
    deepspeed_api,
    frozen,
    make_engine,
)
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.workers import on_workers

STEPS = 3
BUCKET = deepspeed_api.BUCKET_ELEMENTS
GRAD_CLIP = 0.5


def with_deepspeed(
    module: nn.Module, groups: Any, optimizer: OptimizerConfig, config: EngineConfig, **sharding: Any
) -> Engine:
    """``make_engine``, which uses DeepSpeed for a single worker as well."""
    return make_engine(module, groups, optimizer, replace(config, plain_torch=False), **sharding)


def config(world: int, **settings: Any) -> EngineConfig:
    return EngineConfig(world_size=world, **{"grad_clip": GRAD_CLIP, "micro_batch": 4, **settings})


def adam(lr: float, weight_decay: float = 0.0) -> OptimizerConfig:
    return OptimizerConfig(lr, (0.5, 0.99), weight_decay)


class Discriminators(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleDict(
            {name: nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1)) for name in ("frame", "sequence")}
        )

    def forward(self, real: Tensor, fake: Tensor, names: list[str]) -> Tensor:
        return torch.stack(
            [(1 - self.members[n](real)).relu().mean() + (1 + self.members[n](fake)).relu().mean() for n in names]
        ).sum()


def gan_step(generator: Engine, discriminators: Engine, real: Tensor, noise: Tensor, step: int) -> None:
    fake = generator(noise)
    names = ["frame", "sequence"] if step % 2 == 0 else ["frame"]  # one sits out a step
    for name in ("frame", "sequence"):
        discriminators.set_lr(name, 1e-2 if name in names else 0.0)
    discriminators.backward(discriminators(real, fake.detach(), names))
    discriminators.step()
    with frozen(discriminators.module) as judges:
        judged = torch.stack([-member(fake).mean() for member in judges.members.values()]).sum()
    generator.backward(judged + 10.0 * (fake - real).abs().mean())
    generator.step()


def train_gan(
    rank: int,
    world: int,
    factory: EngineFactory,
    stage: int,
    steps: int = STEPS,
    folder: str = "",
    start: int = 0,
    saved_by: int = 0,
) -> dict[str, Any]:
    """The clips of a step are the same on one and on two workers. ``folder`` is written at the end, or read if ``start`` is given."""
    torch.manual_seed(rank)  # the factory must make all workers equal to worker 0
    g = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 6))
    g[0].bias.requires_grad_(False)  # no optimizer holds it
    d = Discriminators()
    groups = [{"params": [p for p in g.parameters() if p.requires_grad], "name": "generator"}]
    generator = factory(g, groups, adam(3e-3), config(world), zero_stage=stage)
    groups = [{"params": m.parameters(), "name": name} for name, m in d.members.items()]
    discriminators = factory(d, groups, adam(1e-2, 0.1), config(world), zero_stage=min(stage, 2))
    players = {"generator": generator, "discriminators": discriminators}
    if start:
        for name, engine in players.items():
            engine.load(f"{folder}/{name}", reshard=saved_by != world)
    norms = []
    for step in range(start, steps):
        parts = [torch.Generator().manual_seed(100 * step + part) for part in ((rank,) if world == 2 else (0, 1))]
        real, noise = zip(
            *((torch.randn(4, 6, generator=random), torch.randn(4, 5, generator=random)) for random in parts),
            strict=True,
        )
        gan_step(generator, discriminators, torch.cat(real), torch.cat(noise), step)
        norms.append(generator.grad_norm)
    if folder and not start:
        for name, engine in players.items():
            Path(folder, name).mkdir(parents=True, exist_ok=True)
            for file, content in engine.snapshot().items():
                torch.save(content, f"{folder}/{name}/{file}")
        if dist.is_initialized():
            dist.barrier()
    state = {}
    for player, engine in (("g", generator), ("d", discriminators)):
        with engine.gathered_parameters():
            state |= {f"{player}.{name}": value.clone() for name, value in engine.module.state_dict().items()}
    unsure = {
        f"{p}.{name}": mask
        for p, e in (("g", generator), ("d", discriminators))
        for name, mask in getattr(e, "unsure", {}).items()
    }
    return {"state": state, "norms": norms, "unsure": unsure}


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


def undisturbed(rank: int, world: int) -> dict[str, Any]:
    return train_gan(rank, world, make_plain_engine, 0, steps=4)


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


def test_more_backwards_than_announced_are_refused() -> None:
    module = nn.Linear(2, 2)
    engine = make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(1, accumulate=2), zero_stage=1)
    for _ in range(2):
        engine.backward(engine(torch.ones(1, 2)).sum())
    with pytest.raises(RuntimeError, match="more often before step than the 2 times"):
        engine.backward(engine(torch.ones(1, 2)).sum())
    engine.step()
    engine.backward(engine(torch.ones(1, 2)).sum())


@pytest.mark.parametrize(("stage", "what"), [(0, "offload_optimizer"), (2, "offload_param")])
def test_what_a_stage_cannot_offload_is_refused(stage: int, what: str) -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=f"ZeRO stage {stage} cannot offload"):
        make_engine(
            module,
            [{"params": module.parameters()}],
            adam(1e-3),
            config(1, offload_optimizer=what == "offload_optimizer"),
            zero_stage=stage,
            offload_param=what == "offload_param",
        )


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_load_continues_exactly(tmp_path: Any, world: int) -> None:
    for pairs in on_workers(world, interrupted, str(tmp_path)):
        for whole, resumed in pairs:
            torch.testing.assert_close(resumed, whole, rtol=0.0, atol=0.0)


def test_saved_state_with_foreign_code_is_refused(tmp_path: Any) -> None:
    from s2v_ray.training.engine.deepspeed_api import load_without_pickle

    torch.save({"x": nn.Linear(2, 2)}, tmp_path / "x.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load_without_pickle(str(tmp_path / "x.pt"))


def test_wrong_number_of_workers_is_refused() -> None:
    module = nn.Linear(2, 2)
    connected = (
        dist.get_world_size() if dist.is_initialized() else 0
    )  # an engine of an earlier test leaves this process connected with itself
    with pytest.raises(ValueError, match=f"3 workers were requested, {connected} are connected"):
        make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(3))
