"""Chooses and makes the engine of a network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from s2v_ray.training.engine.base import Engine, EngineConfig, OptimizerConfig, ParamGroup, check_connected
from s2v_ray.training.engine.deepspeed import DeepSpeedEngine
from s2v_ray.training.engine.torch import TorchEngine


def make_engine(
    module: nn.Module,
    param_groups: Iterable[ParamGroup],
    optimizer: OptimizerConfig,
    config: EngineConfig,
    *,
    zero_stage: int = 0,
    offload_param: bool = False,
) -> Engine:
    """Make an engine for ``module``, which is moved to this worker's device and made equal on all workers.

    Parameters of shape [] become [1], because DeepSpeed cannot send scalars.

    Args:
        module: the network.
        param_groups: as torch optimizers take them.
        optimizer: learning rate and other settings of Adam.
        config: settings of all engines of this worker.
        zero_stage: 0 to 3; not used by a single worker that offloads nothing.
        offload_param: keep the weights in CPU memory (stage 3).

    Raises:
        ValueError: another number of workers is connected, or the stage cannot offload what it should.
    """
    for what, offloaded, least in (("optimizer states", config.offload_optimizer, 1), ("weights", offload_param, 3)):
        if offloaded and zero_stage < least:
            raise ValueError(f"ZeRO stage {zero_stage} cannot offload {what}, stage {least} can")
    groups = [dict(g, params=list(g["params"])) for g in param_groups]
    for p in module.parameters():
        if p.dim() == 0:
            p.data = p.data.reshape(1)
    alone = config.plain_torch and config.world_size == 1 and not (config.offload_optimizer or offload_param)
    if not alone:
        adam = make_optimizer(groups, optimizer)
        return DeepSpeedEngine(module, adam, config, zero_stage=zero_stage, offload_param=offload_param)
    if dist.is_initialized():
        check_connected(config.world_size)
    adam = make_optimizer(groups, optimizer)
    if torch.cuda.is_available():
        module.to(torch.device("cuda", torch.cuda.current_device()))  # as DeepSpeed does
    return TorchEngine(module, adam, config)


def make_optimizer(groups: Iterable[ParamGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Make Adam, or AdamW if there is weight decay."""
    if config.weight_decay:
        return torch.optim.AdamW(
            groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=config.fused
        )
    return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, fused=config.fused)
