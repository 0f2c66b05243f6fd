"""The balance of gradients, compared with gradients by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from s2v_ray.training.balance import GradientBalance


def terms(x: Tensor, weight: float = 0.5) -> dict[str, tuple[float, Tensor]]:
    """Gradients on ``x`` of shape [2]: (3, 4) with norm 5, and (0, 100)."""
    return {"l1": (1.0, 3 * x[0] + 4 * x[1]), "gan": (weight, 100 * x[1])}


def test_a_term_gets_its_share_of_the_reference_norm() -> None:
    balance, x = GradientBalance("l1"), torch.zeros(2, requires_grad=True)
    assert balance.combine(x, terms(x)).tolist() == [3.0, 4.0], "norms of earlier steps are not known yet"
    balance.update()
    torch.testing.assert_close(balance.combine(x, terms(x)), torch.tensor([3.0, 4.0 + 0.5 * 5.0]))


def test_norms_are_moving_averages() -> None:
    balance, x = GradientBalance("l1", decay=0.75), torch.zeros(1, requires_grad=True)
    for size in (2.0, 6.0):
        balance.combine(x, {"l1": (1.0, x.sum()), "gan": (1.0, size * x.sum())})
        balance.update()
    assert balance.squares == {"l1": 1.0, "gan": pytest.approx(0.75 * 4 + 0.25 * 36)}


def test_parts_of_a_batch_give_the_factors_of_the_whole() -> None:
    whole, parts, x = GradientBalance("l1"), GradientBalance("l1"), torch.zeros(4, requires_grad=True)
    a, b = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([5.0, 0.0, 1.0, 2.0])
    whole.combine(x, {"l1": (1.0, (a * x).mean()), "gan": (1.0, (b * x).mean())})
    for half in (slice(0, 2), slice(2, 4)):
        parts.combine(x, {"l1": (1.0, (a * x)[half].mean()), "gan": (1.0, (b * x)[half].mean())})
    whole.update()
    parts.update()
    assert parts.factor("gan", 0.3) == pytest.approx(whole.factor("gan", 0.3))


def test_a_term_without_gradient_has_no_effect() -> None:
    balance, x = GradientBalance("l1"), torch.ones(2, requires_grad=True)
    for _ in range(3):
        combined = balance.combine(x, {"l1": (1.0, x.sum()), "sync": (0.5, 0.0 * x.sum())})
        balance.update()
    assert combined.tolist() == [1.0, 1.0]


def test_a_skipped_step_is_forgotten() -> None:
    balance, x = GradientBalance("l1"), torch.zeros(2, requires_grad=True)
    balance.combine(x, terms(x))
    balance.discard()
    balance.update()
    assert balance.squares == {}
