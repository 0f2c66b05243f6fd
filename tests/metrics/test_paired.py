from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from s2v_ray.metrics.paired import MARGINS, MIN_CLUSTERS, paired_difference


def test_the_difference_is_positive_if_the_row_is_better() -> None:
    row, base = np.array([1.0, 2.0, 3.0]), np.array([0.5, 1.0, 3.0])
    assert paired_difference(row, base, ["a"] * 3, better="higher").mean == pytest.approx(0.5)
    assert paired_difference(row, base, ["a"] * 3, better="lower").mean == pytest.approx(-0.5)


def test_pairs_without_both_values_are_left_out() -> None:
    row, base = np.array([1.0, np.nan, np.inf, 4.0]), np.array([0.0, 1.0, np.inf, 2.0])
    found = paired_difference(row, base, list("abcd"), better="higher")
    assert (found.mean, found.clips, found.speakers) == (1.5, 2, 2)
    nothing = paired_difference(row[1:2], base[1:2], ["a"], better="higher")
    assert (nothing.mean, nothing.low, nothing.clips) == (None, None, 0)
    assert nothing.not_inferior(1.0) is None


def test_clips_of_one_speaker_are_resampled_as_scipy_does() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 40)
    found = paired_difference(values, np.zeros(40), ["a"] * 40, better="higher", resamples=4000)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    assert found.resampled == "clips"
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=0.03), pytest.approx(expected.high, abs=0.03))


def test_speakers_are_resampled_because_their_clips_are_alike() -> None:
    """Ten speakers with ten equal clips each are ten values, not a hundred."""
    means = np.random.default_rng(2).normal(0.0, 1.0, 10)
    speakers = [f"s{i}" for i in range(10) for _ in range(10)]
    found = paired_difference(np.repeat(means, 10), np.zeros(100), speakers, better="higher", resamples=4000)
    assert (found.resampled, found.clips, found.speakers) == ("speakers", 100, 10)
    assert found.low is not None and found.high is not None
    error = means.std() / 10**0.5
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    alone = paired_difference(np.repeat(means, 10), np.zeros(100), ["a"] * 100, better="higher", resamples=4000)
    assert alone.low is not None and alone.high is not None
    assert alone.high - alone.low < 0.5 * (found.high - found.low)


def test_clips_are_resampled_if_few_speakers_or_one_dominate() -> None:
    def resampled(speakers: list[str]) -> str:
        values = np.arange(float(len(speakers)))
        return paired_difference(values, values * 0, speakers, better="higher", resamples=10).resampled

    even = [f"s{i}" for i in range(MIN_CLUSTERS)]
    assert resampled(even) == "speakers"
    assert resampled(even[1:]) == "clips"
    assert resampled(even + ["s0"] * 10) == "clips", "GRID: one man has nearly all clips"


def test_not_inferior_means_that_the_whole_interval_is_above_the_margin() -> None:
    found = paired_difference(np.full(9, -0.4), np.zeros(9), ["a"] * 9, better="higher")
    assert found.low == pytest.approx(-0.4)
    assert found.not_inferior(MARGINS["psnr"].size) is True
    assert found.not_inferior(0.3) is False


def test_declared_margins() -> None:
    assert {name: (m.size, m.relative) for name, m in MARGINS.items()} == {
        "psnr": (0.5, False),
        "ssim": (0.01, False),
        "csim": (0.02, False),
        "landmark_distance": (0.05, True),
    }


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="one for each"):
        paired_difference(np.zeros(2), np.zeros(2), ["a"], better="higher")
    with pytest.raises(ValueError, match="higher or lower"):
        paired_difference(np.zeros(1), np.zeros(1), ["a"], better="one")
