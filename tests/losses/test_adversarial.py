from __future__ import annotations

import math

import pytest
import torch

from s2v_ray.losses.adversarial import (
    emotion_discriminator,
    emotion_generator,
    feature_matching,
    hinge_discriminator,
    hinge_generator,
)


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.0])
    assert hinge_discriminator(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1) / 2)
    assert hinge_generator(fake).item() == pytest.approx(1.0)


def test_emotion_by_hand() -> None:
    undecided = torch.zeros(2, 3)  # two emotions and "generated"
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert emotion_discriminator(undecided, undecided, target).item() == pytest.approx(2 * math.log(3))
    assert emotion_generator(undecided, target).item() == pytest.approx(math.log(3))


def test_feature_matching_by_hand() -> None:
    real = [torch.tensor([[2.0, -2.0]]), torch.tensor([[1.0]])]
    fake = [torch.tensor([[3.0, -2.0]], requires_grad=True), torch.tensor([[4.0]])]
    loss = feature_matching(fake, real)
    assert loss.item() == pytest.approx((0.5 / 2 + 3.0) / 2)
    loss.backward()
    assert fake[0].grad is not None and fake[0].grad.tolist() == [[0.125, 0.0]]


def test_the_emotion_loss_is_small_if_the_emotion_is_shown() -> None:
    target = torch.tensor([[1.0, 0.0]])
    shown = torch.tensor([[5.0, 0.0, 0.0]])
    generated = torch.tensor([[0.0, 0.0, 5.0]])
    assert emotion_generator(shown, target) < 0.05
    assert emotion_generator(generated, target) > 3
