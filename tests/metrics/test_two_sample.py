from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.metrics.two_sample import GRID, MIN_CLIPS, frame_features, two_sample_test


def features(seed: int, clips: int, shift: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(shift, 1.0, (6, 10)) + rng.normal(0.0, 1.0, 10) for _ in range(clips)]


def test_systems_of_one_distribution_cannot_be_told_apart() -> None:
    found = two_sample_test(features(0, 40), features(1, 40))
    assert found is not None and found.clips == 40
    assert found.accuracy == pytest.approx(0.5, abs=0.12)
    assert found.low < found.accuracy < found.high


def test_a_shift_is_found() -> None:
    found = two_sample_test(features(0, 40), features(1, 40, shift=3.0))
    assert found is not None
    assert found.accuracy > 0.95 and found.low > 0.9


def test_what_a_clip_is_tells_nothing() -> None:
    """Frames of a clip are equal, so a classifier that had seen some of them would know the others."""
    rng = np.random.default_rng(0)
    first = [np.repeat(rng.normal(size=(1, 300)), 8, axis=0) for _ in range(24)]
    second = [np.repeat(rng.normal(size=(1, 300)), 8, axis=0) for _ in range(24)]
    found = two_sample_test(first, second)
    assert found is not None
    assert found.accuracy == pytest.approx(0.5, abs=0.15)


def test_both_systems_of_a_clip_are_in_one_half() -> None:
    """Equal frames of both systems can only be told apart by chance: one is right where the other is wrong."""
    same = features(0, 12)
    found = two_sample_test(same, same)
    assert found is not None
    assert found.accuracy == found.low == found.high == 0.5


def test_the_seed_decides() -> None:
    first, second = features(0, 12), features(1, 12, shift=0.3)
    assert two_sample_test(first, second, seed=1) == two_sample_test(first, second, seed=1)


def test_few_clips_give_no_figure() -> None:
    few = features(0, MIN_CLIPS - 1)
    assert two_sample_test(few, few) is None
    with pytest.raises(ValueError, match="the same clips"):
        two_sample_test(features(0, 9), features(0, 8))


def test_features_of_frames_by_hand() -> None:
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[1] = 100
    found = frame_features(frames, np.array([0, 2]), [np.full((2, 5), 7.0)])
    assert found.shape == (2, 48 + 2 * GRID**2 + 5) and found.dtype == np.float32
    colour, texture, motion, code = np.split(found, [48, 48 + GRID**2, 48 + 2 * GRID**2], axis=1)
    assert (colour == 0).all() and (code == 7).all()
    np.testing.assert_allclose(texture, np.log(0.1), rtol=1e-5)
    np.testing.assert_allclose(motion, np.log(100.1), rtol=1e-5)
    assert frame_features(frames, np.array([1]))[0, 0] == pytest.approx(100 / 255)


def test_texture_and_colour_are_found_where_they_are() -> None:
    frames = np.full((2, 32, 32, 3), 100, np.uint8)
    frames[:, :4, :4] = np.indices((4, 4)).sum(0)[..., None] % 2 * 200  # a checkerboard in the first cell
    texture = frame_features(frames, np.array([0]))[0, 48 : 48 + GRID**2].reshape(GRID, GRID)
    assert texture.argmax() == 0
    assert texture[4, 4] == pytest.approx(np.log(0.1), abs=1e-4)
