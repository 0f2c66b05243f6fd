"""The only module that imports DeepSpeed, and all that is used of its private API. Known for DeepSpeed 0.19.

DeepSpeed is imported inside functions, never with this module: a driver on a node without a compiler imports it too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from s2v_ray.training.engine.base import check_connected, copy_to_cpu

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
    """Make a DeepSpeed engine whose checkpoints are read without unpickling code."""
    engine, *_ = connect(world_size).initialize(model=module, optimizer=optimizer, config=config)
    engine.checkpoint_engine.load = load_without_pickle
    return engine


def gathered_parameters(module: nn.Module, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
    """Return the context in which stage 3 gathers all weights; changes are kept if ``modifier_rank`` is given."""
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(
        list(module.parameters()), modifier_rank=modifier_rank
    )
    return gathered


def snapshot(engine: Any) -> dict[str, Any]:
    """Collect the files that ``save_checkpoint`` would write on this worker, without writing them."""
    files: dict[str, Any] = {}
    writer = engine.checkpoint_engine
    writer.makedirs = lambda path, exist_ok=True: None  # noqa: ARG005  # DeepSpeed's signature
    writer.save = lambda state_dict, path: files.update({Path(path).name: copy_to_cpu(state_dict)})
    engine._copy_recovery_script = lambda path: None  # noqa: ARG005  # DeepSpeed's signature
    engine.save_checkpoint("snapshot", tag=".", save_latest=False)
    return files


def set_sharded_state(engine: Any, p: Tensor, weight: Tensor, moments: dict[str, Tensor]) -> None:
    """Set the float32 weight and the optimizer's tensors of one parameter; at stage 3 this worker's part of them."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    local = engine.zero_optimization_stage() == 3
    (safe_set_local_fp32_param if local else safe_set_full_fp32_param)(p, weight)
    set_state = safe_set_local_optimizer_state if local else safe_set_full_optimizer_state
    for name, value in moments.items():
        set_state(p, value, name)


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


def convert_to_universal(folder: str, target: str) -> None:
    """Convert DeepSpeed's files of any number of workers to one file for each parameter and moment."""
    from deepspeed.checkpoint import ds_to_universal

    settings = {
        "num_extract_workers": 1,
        "num_merge_workers": 1,
        "keep_temp_folder": False,
        "strict": True,
        "inject_missing_state": True,
    }
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        # "target/." because DeepSpeed writes a file "latest_universal" into the parent of the output folder.
        ds_to_universal.main(SimpleNamespace(input_folder=folder, output_folder=f"{target}/.", **settings))


@contextmanager
def loading_without_pickle() -> Iterator[None]:
    """Replace ``torch.load`` by ``load_without_pickle``: DeepSpeed's converter calls it with its own options."""
    original = torch.load
    torch.load = lambda f, map_location=None, **_: load_without_pickle(f, map_location, original)
    try:
        yield
    finally:
        torch.load = original


def load_without_pickle(path: Any, map_location: Any = None, load: Callable[..., Any] = torch.load) -> Any:
    """Load tensors, plain values and a few known classes of DeepSpeed; anything else raises ``UnpicklingError``."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return load(path, map_location=map_location, weights_only=True)
