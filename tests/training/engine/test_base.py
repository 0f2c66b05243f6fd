"""Helpers around engines, with values worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from s2v_ray.config import ParallelConfig
from s2v_ray.training.engine import (
    EngineConfig,
    NonFiniteLossError,
    check_finite,
    copy_to_cpu,
    frozen,
    make_engine,
)
from tests.helpers.toy_gan import adam, config


def test_a_loss_that_is_not_finite_is_named_and_gradients_are_discarded() -> None:
    module = nn.Linear(2, 2)
    engine = make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(1))
    engine.backward(engine(torch.ones(1, 2)).sum())
    losses = {"good": torch.tensor(1.0), "bad": torch.tensor(float("nan")), "worse": torch.tensor(float("inf"))}
    with pytest.raises(NonFiniteLossError, match="^student: bad, worse$"):
        check_finite("student", losses, engine)
    assert module.weight.grad is None
    check_finite("student", {"good": torch.tensor(1.0)}, engine)


def test_gradients_pass_through_a_frozen_module_to_its_inputs() -> None:
    module, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    module.bias.requires_grad_(False)
    with frozen(module) as inside:
        inside(x).sum().backward()
    assert module.weight.grad is None and x.grad is not None and torch.equal(x.grad, module.weight.detach())
    assert module.weight.requires_grad and not module.bias.requires_grad, "restored as it was"


def test_copies_are_independent_and_keep_their_structure() -> None:
    value = {"a": [torch.ones(2), 3], "b": (torch.zeros(1), "x")}
    copied = copy_to_cpu(value)
    value["a"][0] += 1  # type: ignore[index]  # a list of a tensor and a number
    assert copied["a"][0].tolist() == [1.0, 1.0] and copied["a"][1] == 3 and copied["b"][1] == "x"
    assert isinstance(copied["b"], tuple)


@pytest.mark.parametrize(("bf16", "expected"), [("on", True), ("off", False)])
def test_settings_follow_the_recipe(bf16: str, expected: bool) -> None:
    parallel = ParallelConfig(workers=2, accumulate=2, grad_clip=0.5, bf16=bf16)  # type: ignore[arg-type]  # parametrized
    found = EngineConfig.from_recipe(parallel, 16, 2, torch.device("cpu"))
    assert found == EngineConfig(world_size=2, micro_batch=4, bf16=expected, grad_clip=0.5, accumulate=2)
