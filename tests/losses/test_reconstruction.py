from __future__ import annotations

import pytest
import torch

from s2v_ray.losses.reconstruction import weighted_l1


def test_weighted_l1_by_hand() -> None:
    real, fake = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert weighted_l1(fake, real, 1 + 0.0 * mask).item() == pytest.approx(1 / 4)
    assert weighted_l1(fake, real, 1 + 4.0 * mask).item() == pytest.approx(5 / 8)  # weights 5, 1, 1, 1


def test_gradient() -> None:
    real, fake = (
        torch.zeros(2, 3, 3, dtype=torch.float64),
        torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True) + 0.1,
    )
    mask = torch.rand(3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: weighted_l1(x, real, 1 + 4.0 * mask), fake)
