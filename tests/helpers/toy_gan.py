"""A toy GAN that is trained through engines, on one or two workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from s2v_ray.training.engine import Engine, EngineConfig, EngineFactory, OptimizerConfig, frozen, make_engine
from s2v_ray.training.shard_files import PieceFiles, write_pieces

STEPS = 3
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
            {
                name: nn.Sequential(spectral_norm(nn.Linear(6, 8)), nn.LeakyReLU(0.2), nn.Linear(8, 1))
                for name in ("frame", "sequence")
            }
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
    """Clips of a step are the same on one and two workers. ``folder`` is written at the end, or read at ``start``."""
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
            files = sorted(Path(folder, name).glob("*.safetensors"))
            assert len(files) == saved_by
            engine.load(PieceFiles(files[rank::world]))
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
            write_pieces(Path(folder, name, f"{rank}.safetensors"), engine.snapshot())
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
