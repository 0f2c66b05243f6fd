"""Which engine is made, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from s2v_ray.training.engine import OptimizerConfig, make_engine, make_optimizer
from s2v_ray.training.engine.torch import TorchEngine
from tests.helpers.toy_gan import adam, config


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


def test_wrong_number_of_workers_is_refused() -> None:
    module = nn.Linear(2, 2)
    connected = (
        dist.get_world_size() if dist.is_initialized() else 0
    )  # an engine of an earlier test leaves this process connected with itself
    with pytest.raises(ValueError, match=f"3 workers were requested, {connected} are connected"):
        make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(3))


def test_a_single_worker_gets_plain_torch_at_any_stage() -> None:
    module = nn.Linear(2, 2)
    engine = make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(1), zero_stage=2)
    assert isinstance(engine, TorchEngine)


@pytest.mark.parametrize(("decay", "kind"), [(0.0, torch.optim.Adam), (0.1, torch.optim.AdamW)])
def test_weight_decay_makes_adamw(decay: float, kind: Any) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer([{"params": [parameter]}], OptimizerConfig(1e-3, (0.5, 0.9), decay))
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"], group["fused"]) == (1e-3, (0.5, 0.9), decay, True)


def test_scalars_become_vectors_of_one_element() -> None:
    module = nn.Module()
    module.scale = nn.Parameter(torch.tensor(2.0))
    make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(1))
    assert module.scale.shape == (1,) and module.scale.item() == 2.0
