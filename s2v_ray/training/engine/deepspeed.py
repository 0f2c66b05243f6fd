"""Engine of several workers: DeepSpeed ZeRO."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from s2v_ray.training.collective import copy_from_first
from s2v_ray.training.engine import deepspeed_api
from s2v_ray.training.engine.base import BackwardCounter, EngineConfig, copy_to_cpu, set_group_lr
from s2v_ray.training.engine.state import (
    MOMENTS,
    STEP,
    WEIGHTS,
    Piece,
    SavedState,
    load_replicated,
    read_moments,
    read_step,
    replicated_state,
    share_of,
)


class DeepSpeedEngine:
    """``Engine`` by DeepSpeed ZeRO. Weights are float32; bf16 is used only inside autocast.

    Args:
        module: the network.
        optimizer: its optimizer; DeepSpeed keeps the moments in it.
        config: settings of the worker's engines.
        zero_stage: 0 to 3.
        offload_param: keep the weights in CPU memory (stage 3).
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: EngineConfig,
        *,
        zero_stage: int,
        offload_param: bool = False,
    ) -> None:
        names = {p: name for name, p in module.named_parameters()}
        self._names = [names[p] for g in optimizer.param_groups for p in g["params"]]  # in the optimizer's order
        settings = deepspeed_config(config, zero_stage, offload_param)
        self._engine = deepspeed_api.initialize(module, optimizer, settings, config.world_size)
        self._optimizer, self._bf16, self._stage = optimizer, config.bf16, zero_stage
        self._backwards = BackwardCounter(config.accumulate)
        self.module = self._engine.module
        self.device = torch.device(self._engine.device)
        copy_from_first(self.module.buffers())  # DeepSpeed makes only the parameters equal on all workers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See ``Engine``."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``."""
        self._backwards.add()
        self._engine.backward(loss)

    def step(self) -> None:
        """See ``Engine``."""
        self._engine.step()
        self._backwards.reset()

    def discard_gradients(self) -> None:
        """See ``Engine``.

        The place of the gradients depends on stage and offloading, and only a step clears them everywhere. So this
        takes a step with learning rate 0 and restores the moments.
        """
        if not self._backwards.pending:
            return
        groups = self._optimizer.param_groups
        rates, moments = [g["lr"] for g in groups], copy_to_cpu(dict(self._optimizer.state))
        for g in groups:
            g["lr"] = 0.0
        self.step()
        for g, rate in zip(groups, rates, strict=True):
            g["lr"] = rate
        for p, state in self._optimizer.state.items():
            for name, value in state.items():
                before = moments.get(p, {}).get(name)
                value.zero_() if before is None else value.copy_(before)  # there are none before the first step

    def set_lr(self, group: int | str, lr: float) -> None:
        """See ``Engine``."""
        set_group_lr(self._engine.optimizer.param_groups, group, lr)

    def set_betas(self, betas: tuple[float, float]) -> None:
        """See ``Engine``."""
        for g in self._engine.optimizer.param_groups:
            g["betas"] = betas

    def autocast(self) -> AbstractContextManager[Any]:
        """See ``Engine``."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def gathered_parameters(self) -> AbstractContextManager[Any]:
        """See ``Engine``."""
        return deepspeed_api.gathered(self.module.parameters()) if self._stage == 3 else nullcontext()

    @property
    def grad_norm(self) -> float | None:
        """See ``Engine``."""
        norm = self._engine.get_global_grad_norm()
        return None if norm is None else float(norm)

    def own_weights(self) -> dict[str, Piece]:
        """See ``Engine``."""
        own = dict(self.module.named_parameters())
        if self._stage == 3:
            return {name: deepspeed_api.weight_piece(own[name]) for name in self._names}
        return {name: share_of(own[name].detach()) for name in self._names}

    def snapshot(self) -> dict[str, Piece]:
        """See ``Engine``."""
        if self._stage == 0:
            return replicated_state(self.module, self._optimizer)
        own = dict(self.module.named_parameters())
        state = {
            f"{WEIGHTS}/{name}": deepspeed_api.weight_piece(own[name])
            if self._stage == 3 and name in own
            else share_of(value)
            for name, value in self.module.state_dict().items()
        }
        moments = self._optimizer.state.get(deepspeed_api.flat_partitions(self._engine)[0])
        if moments:  # there are none before the first step
            state[STEP] = share_of(torch.as_tensor(moments[STEP]))
            for name in self._names:
                for key in MOMENTS:
                    if piece := deepspeed_api.moment_piece(self._engine, own[name], key):
                        state[f"{key}/{name}"] = piece
        return {name: piece.copied() for name, piece in state.items()}

    def load(self, saved: SavedState) -> None:
        """See ``Engine``."""
        if self._stage == 0:
            load_replicated(self.module, self._optimizer, saved)
            return
        own = dict(self.module.named_parameters())
        step = read_step(saved)
        for flat in deepspeed_api.flat_partitions(self._engine):
            moments = {} if step is None else {key: torch.zeros_like(flat) for key in MOMENTS} | {STEP: step.clone()}
            self._optimizer.state[flat] = moments
        if self._stage < 3 and step is not None:
            deepspeed_api.link_optimizer_state(self._engine)
        for name, value in self.module.state_dict().items():
            weight = saved.full(f"{WEIGHTS}/{name}")
            if name in own:
                self._set_parameter(own[name], weight, read_moments(saved, name))
            else:
                value.copy_(weight)

    @torch.no_grad()
    def _set_parameter(self, p: Any, weight: Tensor, moments: dict[str, Tensor]) -> None:
        """Set a parameter and its optimizer state, of which this worker takes the part that its stage gives it."""
        gathered = deepspeed_api.gathered([p], modifier_rank=0) if self._stage == 3 else nullcontext()
        with gathered:
            p.copy_(weight)
        if p.requires_grad:
            deepspeed_api.set_sharded_state(self._engine, p, weight.to(p.device), moments)


def deepspeed_config(config: EngineConfig, zero_stage: int, offload_param: bool = False) -> dict[str, Any]:
    """Build DeepSpeed's config. Every default that does not suit several small models in one process is set."""
    bucket = deepspeed_api.BUCKET_ELEMENTS
    zero: dict[str, Any] = {
        "stage": zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        # Stage 3 releases gathered weights beyond these; with the defaults, 1e9, a small model is never sharded while
        # it computes.
        "stage3_max_live_parameters": bucket,
        "stage3_max_reuse_distance": bucket,
        "stage3_prefetch_bucket_size": bucket,
    }
    for name, offloaded in (("offload_optimizer", config.offload_optimizer), ("offload_param", offload_param)):
        if offloaded:
            zero[name] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        # DeepSpeed's own count of micro-batches scales losses, and a micro-batch that is skipped shifts it. Unmanaged,
        # it sums all gradients before ``step``.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": config.accumulate == 1,
        "gradient_clipping": config.grad_clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "memory_efficient_linear": False,
        "zero_optimization": zero,
        # The empty list keeps gradients in float32 while they are averaged; only the arithmetic in forward is bf16.
        "torch_autocast": {"enabled": config.bf16, "dtype": "bfloat16", "lower_precision_safe_modules": []},
        "steps_per_print": 1_000_000_000,
    }
