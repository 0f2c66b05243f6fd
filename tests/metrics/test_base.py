from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.metrics.base import Metric, bootstrap_mean


def test_the_bootstrap_interval_is_that_of_theory() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    found = bootstrap_mean(values, 4000, seed=3)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)


def test_the_bootstrap_is_seeded() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    assert bootstrap_mean(values, 4000, seed=3) == bootstrap_mean(values, 4000, seed=3)
    assert bootstrap_mean(values, 4000, seed=3) != bootstrap_mean(values, 4000, seed=4)


def test_values_that_do_not_apply_are_left_out() -> None:
    assert bootstrap_mean([1.0, float("nan"), 3.0, float("inf")]).mean == 2.0
    nothing = bootstrap_mean([float("nan")])
    assert (nothing.mean, nothing.low, nothing.high, nothing.clips) == (None, None, None, 0)


@pytest.mark.parametrize(("better", "arrow"), [("higher", "↑"), ("lower", "↓"), ("one", "→1")])
def test_the_direction_has_an_arrow(better: str, arrow: str) -> None:
    assert Metric("m", better, "", 2, "").arrow == arrow  # type: ignore[arg-type]
