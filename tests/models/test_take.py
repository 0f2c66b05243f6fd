from __future__ import annotations

import math

import pytest
import torch

from s2v_ray.config import GeneratorConfig
from s2v_ray.media.regions import mouth_box
from s2v_ray.models.take import (
    CROSSFADE_FRAMES,
    INITIAL_LOG_VARIANCE,
    KnownTake,
    MotionEncoder,
    MotionPrior,
    MotionSequence,
    NoiseSequence,
    TakeEncoder,
    TakePrior,
    kl_to_standard_normal,
    reparametrise,
)

CONFIG = GeneratorConfig(
    channels=(8, 8, 8, 8), take_dim=3, motion_dim=2, take_width=4, take_clips=4, motion_clips=3, motion_frames=20
)


def filled_prior() -> MotionPrior:
    prior = MotionPrior(CONFIG)
    prior.fill([torch.randn(15, 2, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    return prior


def test_the_take_encoder_does_not_see_the_mouth() -> None:
    torch.manual_seed(0)
    encoder, frames = TakeEncoder(CONFIG, 32), torch.rand(1, 2, 3, 32, 32)
    y0, y1, x0, x1 = mouth_box(32)
    other = frames.clone()
    other[..., y0 + 3 : y1 - 3, x0 + 3 : x1 - 3] = -1.0
    a, b = encoder(frames), encoder(other)
    assert a.mean.shape == a.log_variance.shape == (1, 2, 3)
    of_mouth, of_face = ((a.mean - other.mean).abs().max().item() for other in (b, encoder(frames.flip(-1))))
    assert of_mouth < 0.03 * of_face, "the mask has soft edges"


def test_the_motion_encoder_sees_nothing_below_the_nose() -> None:
    torch.manual_seed(0)
    encoder, frames = MotionEncoder(CONFIG, 32), torch.rand(1, 2, 3, 32, 32)
    below, above = frames.clone(), frames.clone()
    below[..., 21:, :] = -1.0  # the tip of the nose is at row 18
    above[..., :15, :] = -1.0
    found = encoder(frames)
    assert found.mean.shape == found.log_variance.shape == (1, 2, 2)
    of_jaw, of_eyes = ((found.mean - encoder(other).mean).abs().max().item() for other in (below, above))
    assert of_jaw < 0.03 * of_eyes, "the mask has soft edges"


def test_maps_of_the_take_are_encoded_from_their_place_in_the_picture() -> None:
    torch.manual_seed(0)
    config = CONFIG.model_copy(update={"take_maps": (2, 1)})
    encoder, frames = TakeEncoder(config, 32), torch.rand(1, 1, 3, 32, 32, requires_grad=True)
    found = encoder(frames)
    assert found.mean.shape == found.log_variance.shape == (1, 1, 3 + 2 * 4 * 4 + 1 * 8 * 8)
    assert config.take_size(32) == found.mean.shape[2]
    assert found.log_variance.mean().item() == pytest.approx(INITIAL_LOG_VARIANCE, abs=1.0)
    # The centre of mass of an entry's gradient: at its place, although the receptive fields are larger than an entry.
    for entry, row, column in ((3, 0, 0), (3 + 16 + 4 * 2 + 1, 2, 1), (3 + 32 + 8 * 6 + 3, 3, 1.5)):
        (gradient,) = torch.autograd.grad(found.mean[0, 0, entry], frames, retain_graph=True)
        strength, places = gradient[0, 0].square().sum(0), torch.arange(32) + 0.5
        centre = [float((strength.sum(1 - axis) * places).sum() / strength.sum()) for axis in (0, 1)]
        assert centre == pytest.approx([8 * (row + 0.5), 8 * (column + 0.5)], abs=5), entry


def known(identity: int, level: float, emotion: float = 0.0) -> KnownTake:
    return KnownTake(
        torch.eye(6)[identity], torch.full((4,), emotion), torch.full((3,), level), torch.full((3,), -20.0)
    )


def drawn(prior: TakePrior, identity: int, emotion: float = 0.0, count: int = 400) -> list[float]:
    """First entries of takes, rounded to the level of the clip that they come from."""
    white = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    codes = torch.eye(6)[identity].expand(count, -1), torch.full((count, 4), emotion)
    return [round(value) for value in prior.sample(*codes, white)[:, 0].tolist()]


def test_takes_are_those_of_clips_of_the_same_identity() -> None:
    prior = TakePrior(6, 4, CONFIG, 32)
    prior.fill([known(0, 1.0), known(0, 2.0), known(1, 7.0), known(0, 3.0)])
    found = drawn(prior, 0)
    assert {level: found.count(level) for level in set(found)} == {
        level: pytest.approx(400 / 3, abs=45) for level in (1.0, 2.0, 3.0)
    }
    assert set(drawn(prior, 1)) == {7.0}


def test_takes_are_those_of_clips_with_a_similar_emotion() -> None:
    prior = TakePrior(6, 4, CONFIG, 32)
    prior.fill([known(0, 1.0, emotion=-1.0), known(0, 2.0, emotion=1.0)])
    assert set(drawn(prior, 0, emotion=-0.9)) == {1.0} and set(drawn(prior, 0, emotion=0.9)) == {2.0}
    between = drawn(prior, 0, emotion=0.0)
    assert between.count(1.0) == pytest.approx(200, abs=45)


def test_a_take_is_a_sample_of_the_posterior() -> None:
    prior = TakePrior(6, 4, CONFIG, 32)
    variance = torch.tensor([1.0, 4.0, 0.25])
    prior.fill([KnownTake(torch.eye(6)[0], torch.zeros(4), torch.tensor([1.0, -2.0, 0.0]), variance.log())])
    white = torch.randn(4000, 4)
    takes = prior.sample(torch.eye(6)[:1].expand(4000, -1), torch.zeros(4000, 4), white)
    torch.testing.assert_close(takes.mean(0), torch.tensor([1.0, -2.0, 0.0]), atol=0.15, rtol=0)
    torch.testing.assert_close(takes.var(0), variance, atol=0.0, rtol=0.15)


def test_an_empty_prior_is_standard_normal_and_a_full_one_takes_no_more() -> None:
    prior, white = TakePrior(6, 4, CONFIG, 32), torch.randn(5, 4)
    torch.testing.assert_close(prior.sample(torch.randn(5, 6), torch.randn(5, 4), white), white[:, 1:])
    prior.fill([known(0, float(n)) for n in range(CONFIG.take_clips + 3)])
    assert int(prior.stored) == CONFIG.take_clips


def test_mean_codes_are_those_of_the_stored_clips() -> None:
    prior = TakePrior(6, 4, CONFIG, 32)
    identity, emotion = prior.mean_codes()
    torch.testing.assert_close(identity, torch.full((6,), 6**-0.5))
    assert emotion.eq(0).all()
    prior.fill([known(0, 1.0, emotion=-1.0), known(0, 2.0, emotion=0.0), known(1, 3.0, emotion=-0.5)])
    identity, emotion = prior.mean_codes()
    torch.testing.assert_close(identity, torch.tensor([2.0, 1.0, 0.0, 0.0, 0.0, 0.0]) / 5**0.5)
    torch.testing.assert_close(emotion, torch.full((4,), -0.5))


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
