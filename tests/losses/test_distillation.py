"""Losses compared with values by hand or by a reference implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from s2v_ray.losses.distillation import (
    Dependence,
    aggregate_emotion,
    cosine_distance,
    identity_contrast,
    softened_cross_entropy,
)


def test_emotion_is_averaged_over_the_speech() -> None:
    logits = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert aggregate_emotion(logits, mask).tolist() == [[2.0, 1.0]]


def test_softened_cross_entropy_by_hand() -> None:
    # softmax([ln 9 / 2 ...]) at T = 2: teacher logits (2 ln 3, 0) soften to odds 3 : 1; the student is undecided
    teacher, student = torch.tensor([[2 * math.log(3.0), 0.0]]), torch.zeros(1, 2)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert softened_cross_entropy(student, teacher, 2.0).item() == pytest.approx(4 * kl, rel=1e-5)


def test_softened_cross_entropy_is_zero_for_perfect_imitation() -> None:
    logits = torch.randn(5, 7)
    assert softened_cross_entropy(logits + 3.0, logits, 2.0).item() == pytest.approx(0.0, abs=1e-5)


def test_cosine_distance_by_hand() -> None:
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    b = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]])
    assert cosine_distance(a, b).item() == pytest.approx((0 + 1 + 2) / 3)


def test_identity_contrast_is_zero_for_the_teacher_with_two_clips_of_a_speaker() -> None:
    teacher = F.normalize(torch.randn(6, 8), dim=-1)
    teacher[1] = teacher[0]  # two clips of one speaker
    assert identity_contrast(teacher, teacher, 0.1).item() == pytest.approx(0.0, abs=1e-5)
    assert identity_contrast(teacher.roll(3, 0), teacher, 0.1).item() > 1.0


def test_dependence_of_independent_codes_and_of_a_mixed_copy() -> None:
    a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    b = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert Dependence()(a, b).item() == pytest.approx(0.0, abs=1e-6)
    x = torch.randn(50, 5)
    assert Dependence(ridge=0.0)(x, 3.0 * x @ torch.randn(5, 5) + 2.0).item() == pytest.approx(1.0, rel=1e-2)


def test_dependence_is_the_share_that_a_linear_probe_explains() -> None:
    x = torch.randn(400, 3)
    y = x[:, :1] + torch.randn(400, 1)
    solution = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution
    explained = ((x - x.mean(0)) @ solution).var() / y.var()
    assert Dependence(ridge=0.0)(x, y).item() == pytest.approx(explained.item(), rel=1e-3)


def test_dependence_over_many_batches_is_less_than_that_of_small_ones() -> None:
    torch.manual_seed(0)
    one, running = [], Dependence()
    for _ in range(200):
        a, b = torch.randn(8, 16), torch.randn(8, 4)
        one.append(Dependence()(a, b))
        last = running(a, b)
    assert last < 0.5 * torch.stack(one).mean()


def test_gradient_descent_on_the_dependence_removes_it() -> None:
    torch.manual_seed(0)
    label = torch.nn.functional.one_hot(torch.randint(3, (600,)), 3).float()
    leaky = torch.randn(600, 6) + 2.0 * label @ torch.randn(3, 6)
    removed = torch.zeros(3, 6, requires_grad=True)
    term, optimizer = Dependence(), torch.optim.Adam([removed], lr=0.02)
    for _ in range(300):
        rows = torch.randint(600, (64,))
        optimizer.zero_grad()
        term(leaky[rows] - label[rows] @ removed, label[rows]).backward()
        optimizer.step()
    assert Dependence()((leaky - label @ removed).detach(), label) < 0.1 * Dependence()(leaky, label)


def test_gradients() -> None:
    a, b = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    unit = F.normalize(b, dim=-1)
    assert torch.autograd.gradcheck(lambda x: softened_cross_entropy(x, b, 2.0), a)
    assert torch.autograd.gradcheck(lambda x: identity_contrast(F.normalize(x, dim=-1), unit, 0.5), a)
