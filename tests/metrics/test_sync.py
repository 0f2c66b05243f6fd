from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.metrics import sync


@pytest.fixture
def opening() -> np.ndarray:
    return np.abs(np.random.default_rng(0).standard_normal(60)).astype(np.float32)


def test_correlation_equals_numpy(opening: np.ndarray) -> None:
    other = opening + np.random.default_rng(1).standard_normal(60)
    assert sync.correlation(opening, other) == pytest.approx(np.corrcoef(opening, other)[0, 1])
    assert sync.correlation(opening, np.ones(60)) == 0.0


@pytest.mark.parametrize("late", [-3, 0, 2, 5])
def test_the_lag_is_positive_if_generated_frames_are_late(opening: np.ndarray, late: int) -> None:
    curve = sync.cross_correlation(np.roll(opening, late), opening)
    assert len(curve) == 11
    assert sync.peak(curve) == late
    assert np.nanmax(curve) == pytest.approx(1.0)


def test_a_still_frame_has_no_lag(opening: np.ndarray) -> None:
    curve = sync.cross_correlation(np.full(60, 0.3, np.float32), opening)
    assert sync.peak(curve) is None
    assert curve[5] == 0.0


def test_short_clips_search_fewer_lags(opening: np.ndarray) -> None:
    curve = sync.cross_correlation(opening[:8], opening[:8])
    assert np.isfinite(curve).tolist() == [False] * 2 + [True] * 7 + [False] * 2
    with pytest.raises(ValueError, match="frames"):
        sync.cross_correlation(opening[:8], opening)


@pytest.mark.parametrize("late", [-4, 0, 3])
def test_sync_score_finds_the_offset(late: int) -> None:
    frames = np.random.default_rng(2).standard_normal((50, 32))
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    distances = sync.sync_distances(np.roll(frames, late, axis=0), frames)
    score = sync.sync_score(distances)
    assert score.offset == late
    assert score.distance == pytest.approx(0.0, abs=1e-6)
    assert score.confidence == pytest.approx(2**0.5, abs=0.1)  # random unit vectors are about sqrt(2) apart


def test_sync_score_by_hand() -> None:
    score = sync.sync_score(np.array([1.2, 1.0, 0.7, 1.1, np.nan]))
    assert (score.distance, score.offset) == (0.7, 0)
    assert score.confidence == pytest.approx(1.05 - 0.7)


def test_too_short_for_any_offset() -> None:
    score = sync.sync_score(sync.sync_distances(np.ones((2, 4)), np.ones((2, 4))))
    assert np.isnan(score.confidence) and score.offset is None


def test_confidence_falls_when_the_best_match_is_elsewhere() -> None:
    in_sync, late = np.array([1.2, 1.0, 0.2, 1.0, 1.1]), np.array([1.2, 1.0, 1.1, 0.2, 1.0])
    assert sync.in_sync_confidence(in_sync) == pytest.approx(0.8)
    assert sync.sync_score(in_sync).confidence == pytest.approx(0.8)
    assert sync.in_sync_confidence(late) == pytest.approx(-0.1)
    assert sync.sync_score(late).confidence == pytest.approx(0.8)
    assert np.isnan(sync.in_sync_confidence(np.full(5, np.nan)))
