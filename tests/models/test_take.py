from __future__ import annotations

import math

import pytest
import torch

from s2v_ray.config import GeneratorConfig
from s2v_ray.media.mouth import mouth_box
from s2v_ray.models.take import (
    CROSSFADE_FRAMES,
    MotionPrior,
    MotionSequence,
    NoiseSequence,
    TakeEncoder,
    TakePrior,
    kl_to_standard_normal,
    reparametrise,
)

CONFIG = GeneratorConfig(
    channels=(8, 8, 8, 8), take_dim=3, motion_dim=2, take_width=4, motion_clips=3, motion_frames=20
)


def filled_prior() -> MotionPrior:
    prior = MotionPrior(CONFIG)
    prior.fill([torch.randn(15, 2, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    return prior


def test_the_encoder_does_not_see_the_mouth() -> None:
    torch.manual_seed(0)
    encoder, frames = TakeEncoder(CONFIG, 32), torch.rand(1, 2, 3, 32, 32)
    y0, y1, x0, x1 = mouth_box(32)
    other = frames.clone()
    other[..., y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] = -1.0
    a, b = encoder(frames), encoder(other)
    assert a.take_mean.shape == (1, 2, 3) and a.motion_log_variance.shape == (1, 2, 2)
    torch.testing.assert_close(a.take_mean, b.take_mean, atol=1e-3, rtol=0)
    assert not torch.allclose(a.take_mean, encoder(frames.flip(-1)).take_mean, atol=1e-3)


def test_the_prior_is_standard_normal_at_the_start() -> None:
    prior, white = TakePrior(6, 4, CONFIG), torch.randn(5, 3)
    identity, emotion = torch.randn(5, 6), torch.randn(5, 4)
    torch.testing.assert_close(prior.sample(identity, emotion, white), white * (1 + 1e-3), atol=1e-5, rtol=0)
    expected = (0.5 * white.square().sum(-1) + 1.5 * math.log(2 * math.pi)).mean()
    torch.testing.assert_close(
        prior.negative_log_likelihood(white, identity, emotion, torch.randn(5, 10)), expected, atol=1e-2, rtol=0
    )


def test_the_likelihood_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    prior = TakePrior(6, 4, CONFIG)
    torch.nn.init.normal_(prior.network[2].weight)
    identity, emotion, take = torch.randn(4, 6), torch.randn(4, 4), torch.randn(4, 3)
    mean, lower = prior(identity, emotion)
    expected = -torch.distributions.MultivariateNormal(mean, scale_tril=lower).log_prob(take).mean()
    torch.testing.assert_close(prior.negative_log_likelihood(take, identity, emotion, torch.zeros(4, 10)), expected)


def test_the_prior_learns_a_gaussian_for_each_identity() -> None:
    torch.manual_seed(0)
    prior = TakePrior(6, 4, CONFIG)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    codes, emotion = torch.eye(6)[:2], torch.zeros(2, 4)
    centre = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 1.0, 0.0]])
    scale = torch.tensor([[0.3, 0.0, 0.0], [0.3, 0.1, 0.0], [0.0, 0.0, 1.0]])
    for _ in range(400):
        which = torch.randint(2, (32,))
        take = centre[which] + torch.randn(32, 3) @ scale.T
        loss = prior.negative_log_likelihood(take, codes[which], emotion[which], torch.randn(32, 10))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mean, lower = prior(codes, emotion)
    torch.testing.assert_close(mean, centre, atol=0.5, rtol=0)
    torch.testing.assert_close((lower @ lower.mT)[0], scale @ scale.T, atol=0.25, rtol=0)


def test_motion_in_chunks_of_any_length_is_one_sequence() -> None:
    prior = filled_prior()
    whole = MotionSequence(prior, torch.Generator().manual_seed(3)).draw(90)
    pieces = MotionSequence(prior, torch.Generator().manual_seed(3))
    parts = torch.cat([pieces.draw(n) for n in (1, 40, 2, 47)], dim=1)
    assert whole.shape == (1, 90, 2)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_noise_in_chunks_of_any_length_is_one_sequence() -> None:
    whole = NoiseSequence(8, torch.Generator().manual_seed(3)).draw(5)
    pieces = NoiseSequence(8, torch.Generator().manual_seed(3))
    parts = torch.cat([pieces.draw(n) for n in (1, 3, 1)], dim=1)
    assert whole.shape == (1, 5, 1, 8, 8) and whole.std().item() == pytest.approx(1.0, abs=0.15)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_motion_consists_of_stored_trajectories() -> None:
    prior = filled_prior()
    assert prior.lengths.tolist() == [15, 15, 0]
    torch.testing.assert_close(prior.trajectories[0, :15].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    drawn = MotionSequence(prior, torch.Generator().manual_seed(0)).draw(15 - CROSSFADE_FRAMES)[0]
    starts = [prior.trajectories[i, : len(drawn)] for i in range(2)]
    assert any(torch.equal(drawn, start) for start in starts)


def test_without_trajectories_nothing_moves() -> None:
    assert MotionSequence(MotionPrior(CONFIG), torch.Generator()).draw(30).eq(0).all()


def test_long_trajectories_are_cut() -> None:
    prior = MotionPrior(CONFIG)
    prior.fill([torch.randn(50, 2)])
    assert prior.lengths.tolist() == [20, 0, 0]


def test_kl_by_hand() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    expected = 0.5 * 1.0 + 0.5 * (4.0 - 1.0 - math.log(4.0))
    assert kl_to_standard_normal(mean, log_variance).item() == pytest.approx(expected)
    assert reparametrise(mean, log_variance, torch.ones(1, 2)).tolist() == [[2.0, 2.0]]
