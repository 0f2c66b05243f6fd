"""The engine of a single worker."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from s2v_ray.training.engine import make_engine
from tests.helpers.toy_gan import adam, config


def test_more_backwards_than_announced_are_refused() -> None:
    module = nn.Linear(2, 2)
    engine = make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(1, accumulate=2), zero_stage=1)
    for _ in range(2):
        engine.backward(engine(torch.ones(1, 2)).sum())
    with pytest.raises(RuntimeError, match="more often before step than the 2 times"):
        engine.backward(engine(torch.ones(1, 2)).sum())
    engine.step()
    engine.backward(engine(torch.ones(1, 2)).sum())


def test_discarded_gradients_change_nothing_and_allow_new_ones() -> None:
    torch.manual_seed(0)
    module = nn.Linear(2, 2)
    engine = make_engine(module, [{"params": module.parameters()}], adam(1e-1), config(1))
    before = module.weight.detach().clone()
    engine.backward(engine(torch.ones(1, 2)).sum())
    engine.discard_gradients()
    assert module.weight.grad is None
    engine.backward(engine(torch.ones(1, 2)).sum())
    engine.step()
    torch.testing.assert_close((before - module.weight).abs(), torch.full_like(before, 0.1))  # Adam's first step is lr


def test_rates_and_betas_are_set_by_group() -> None:
    module = nn.Linear(2, 2)
    groups = [{"params": [module.weight], "name": "weight"}, {"params": [module.bias], "name": "bias"}]
    engine = make_engine(module, groups, adam(1e-3), config(1))
    engine.set_lr("bias", 0.5)
    engine.set_lr(0, 0.25)
    engine.set_betas((0.1, 0.2))
    found = engine._optimizer.param_groups  # type: ignore[attr-defined]  # what the setters act on
    assert [g["lr"] for g in found] == [0.25, 0.5] and [g["betas"] for g in found] == [(0.1, 0.2)] * 2
    with pytest.raises(ValueError, match="no parameter group is named 'other'"):
        engine.set_lr("other", 0.1)


def test_the_norm_of_the_gradients_is_known_before_clipping() -> None:
    module = nn.Linear(1, 1, bias=False)
    engine = make_engine(module, [{"params": module.parameters()}], adam(1e-3), config(1, grad_clip=0.5))
    assert engine.grad_norm is None
    engine.backward(engine(torch.full((1, 1), 3.0)).sum())
    engine.step()
    assert engine.grad_norm == pytest.approx(3.0)
