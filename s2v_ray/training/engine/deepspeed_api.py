"""The only module that imports DeepSpeed, and all that is used of its private API. Known for DeepSpeed 0.19.

DeepSpeed is imported inside functions, never with this module: a driver on a node without a compiler imports it too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from s2v_ray.training.engine.base import check_connected
from s2v_ray.training.engine.state import Piece

BUCKET_ELEMENTS = 25_000_000
"""Gradient elements that are reduced at once (DeepSpeed's default of 5e8 would be 2 GB for each engine)."""
IGNORED_WARNINGS = (
    ".*torch.jit.*",
    ".*_all_gather_base.*",
    ".*reduce_scatter_base.*",
    ".*is deprecated.*use.*torch.*instead.*",
)
"""FutureWarnings of torch about DeepSpeed's own code."""


def connect(world_size: int) -> Any:
    """Import DeepSpeed and connect it to torch.distributed, without compiling anything.

    Raises:
        ValueError: another number of workers is connected.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=FutureWarning)
    import deepspeed

    if not dist.is_initialized() and world_size == 1:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
    check_connected(world_size)
    # Built at first use on a CPU, with g++ and ninja, and only for inference: training averages gradients through gloo.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed()
    return deepspeed


def initialize(module: nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], world_size: int) -> Any:
    """Make a DeepSpeed engine."""
    engine, *_ = connect(world_size).initialize(model=module, optimizer=optimizer, config=config)
    return engine


def gathered(parameters: Iterable[Tensor], modifier_rank: int | None = None) -> AbstractContextManager[Any]:
    """Return the context in which stage 3 gathers weights; worker ``modifier_rank``'s changes are kept, if given."""
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(parameters), modifier_rank=modifier_rank
    )
    return context


def weight_piece(p: Any) -> Piece:
    """Return this worker's piece of a parameter at stage 3, without the padding at the end."""
    return _unpadded(p, p.ds_tensor.detach())


def moment_piece(engine: Any, p: Any, key: str) -> Piece | None:
    """Return this worker's piece of one of Adam's moments at stages 1 to 3, or None if it has no part of it."""
    if engine.zero_optimization_stage() == 3:
        from deepspeed.utils import safe_get_local_optimizer_state

        return _unpadded(p, safe_get_local_optimizer_state(p, key))
    mapping = p._hp_mapping
    if mapping is None:
        return None
    moments = engine.optimizer.optimizer.state[flat_partitions(engine)[mapping.param_group_index]][key]
    address = mapping.hp_fragment_address
    values = moments.narrow(0, address.start, address.numel)
    return Piece(tuple(p.shape), mapping.lp_fragment_address.start, values)


def _unpadded(p: Any, values: Tensor) -> Piece:
    start = dist.get_rank() * p.ds_tensor.ds_numel
    return Piece(tuple(p.ds_shape), start, values.flatten()[: max(0, p.ds_numel - start)])


def set_sharded_state(engine: Any, p: Any, weight: Tensor, moments: Mapping[str, Tensor]) -> None:
    """Set this worker's part of the float32 weight and the moments of one parameter, which are given whole."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if engine.zero_optimization_stage() == 3:
        size = p.ds_tensor.numel()
        safe_set_local_fp32_param(p, padded_shard(weight, size, dist.get_rank()))
        for name, value in moments.items():
            safe_set_local_optimizer_state(p, padded_shard(value, size, dist.get_rank()), name)
        return
    safe_set_full_fp32_param(p, weight)
    for name, value in moments.items():
        safe_set_full_optimizer_state(p, value, name)


def padded_shard(value: Tensor, size: int, rank: int) -> Tensor:
    """Cut out a worker's part of a parameter that stage 3 shards into flat, padded parts of ``size`` elements."""
    part = value.flatten()[rank * size : (rank + 1) * size]
    return torch.cat([part, part.new_zeros(size - len(part))])


def flat_partitions(engine: Any) -> list[Tensor]:
    """Return the flat float32 tensors that ZeRO's optimizer updates on this worker, one for each parameter group."""
    zero = engine.optimizer
    flat = (
        zero.fp32_partitioned_groups_flat
        if engine.zero_optimization_stage() == 3
        else zero.single_partition_of_fp32_groups
    )
    return list(flat)


def link_optimizer_state(engine: Any) -> None:
    """Link the optimizer's flat moments to their parameters, which stages 1 and 2 do at the first step only."""
    engine.optimizer._lazy_init_hp_params_optimizer_state()
