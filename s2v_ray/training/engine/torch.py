"""Engine of a single worker in plain torch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from s2v_ray.training.engine.base import BackwardCounter, EngineConfig, set_group_lr
from s2v_ray.training.engine.state import (
    Piece,
    SavedState,
    load_replicated,
    replicated_state,
    share_of,
)


class TorchEngine:
    """``Engine`` for one worker: DeepSpeed's arithmetic without its copies and per-parameter Python code."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, config: EngineConfig) -> None:
        self.module, self.device = module, next(module.parameters()).device
        self._optimizer, self._bf16, self._grad_clip = optimizer, config.bf16, config.grad_clip
        self._backwards = BackwardCounter(config.accumulate)
        self._parameters = [p for g in optimizer.param_groups for p in g["params"]]
        self._norm: Tensor | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See ``Engine``."""
        with self.autocast():
            return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``."""
        self._backwards.add()
        loss.backward()

    def step(self) -> None:
        """See ``Engine``."""
        for p in self._parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # as under ZeRO: Adam's moments still decay
        self._norm = nn.utils.clip_grad_norm_(self._parameters, self._grad_clip or float("inf"))
        self._optimizer.step()
        self.discard_gradients()

    def discard_gradients(self) -> None:
        """See ``Engine``."""
        self._optimizer.zero_grad(set_to_none=True)
        self._backwards.reset()

    def set_lr(self, group: int | str, lr: float) -> None:
        """See ``Engine``."""
        set_group_lr(self._optimizer.param_groups, group, lr)

    def set_betas(self, betas: tuple[float, float]) -> None:
        """See ``Engine``."""
        for g in self._optimizer.param_groups:
            g["betas"] = betas

    def autocast(self) -> AbstractContextManager[Any]:
        """See ``Engine``."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def gathered_parameters(self) -> AbstractContextManager[Any]:
        """See ``Engine``; a single worker has all weights."""
        return nullcontext()

    @property
    def grad_norm(self) -> float | None:
        """See ``Engine``."""
        return None if self._norm is None else float(self._norm)

    def own_weights(self) -> dict[str, Piece]:
        """See ``Engine``."""
        names = {p: name for name, p in self.module.named_parameters()}
        return {names[p]: share_of(p.detach()) for p in self._parameters}

    def snapshot(self) -> dict[str, Piece]:
        """See ``Engine``."""
        return replicated_state(self.module, self._optimizer)

    def load(self, saved: SavedState) -> None:
        """See ``Engine``."""
        load_replicated(self.module, self._optimizer, saved)
