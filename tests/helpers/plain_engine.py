"""The reference that engines are compared with: the same interface in a screen of plain torch."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from s2v_ray.training.engine import EngineConfig, OptimizerConfig, ParamGroup, make_optimizer
from s2v_ray.training.engine.state import Piece, SavedState, load_replicated, replicated_state, share_of


class PlainEngine:
    """Average the gradients over workers, clip, Adam. Parameters without a gradient get gradient 0, as under ZeRO."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, grad_clip: float, bf16: bool) -> None:
        self.module, self.optimizer, self.grad_clip, self.bf16 = module, optimizer, grad_clip, bf16
        self.device = next(module.parameters()).device
        self.grad_norm: float | None = None
        self.unsure = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in module.named_parameters()}
        if dist.is_initialized():
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.autocast():
            return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        for p in parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            if dist.is_initialized():
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()
        norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
        self.grad_norm = float(norm)
        # Terms that cancel leave rounding errors, which Adam scales to full steps.
        for name, p in self.module.named_parameters():
            if p.grad is not None and p.grad.any():
                self.unsure[name] |= p.grad.abs() < 1e-5 * norm
        if self.grad_clip:
            scale = (self.grad_clip / (norm + 1e-6)).clamp(max=1.0)
            for p in parameters:
                if p.grad is not None:
                    p.grad *= scale
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def discard_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def set_lr(self, group: int | str, lr: float) -> None:
        groups = self.optimizer.param_groups
        (groups[group] if isinstance(group, int) else next(g for g in groups if g.get("name") == group))["lr"] = lr

    def set_betas(self, betas: tuple[float, float]) -> None:
        for g in self.optimizer.param_groups:
            g["betas"] = betas

    def autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def gathered_parameters(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def own_weights(self) -> dict[str, Piece]:
        return {name: share_of(p.detach()) for name, p in self.module.named_parameters() if p.requires_grad}

    def snapshot(self) -> dict[str, Piece]:
        return replicated_state(self.module, self.optimizer)

    def load(self, saved: SavedState) -> None:
        load_replicated(self.module, self.optimizer, saved)


def make_plain_engine(
    module: nn.Module,
    param_groups: Iterable[ParamGroup],
    optimizer: OptimizerConfig,
    config: EngineConfig,
    *,
    zero_stage: int = 0,
    offload_param: bool = False,
) -> PlainEngine:
    """Same signature as ``training.engine.make_engine``; without ZeRO, offloading and the fused optimizer."""
    groups = [dict(g, params=list(g["params"])) for g in param_groups]
    for p in module.parameters():
        if p.dim() == 0:
            p.data = p.data.reshape(1)
    adam = make_optimizer(groups, replace(optimizer, fused=False))
    return PlainEngine(module, adam, config.grad_clip, config.bf16)
