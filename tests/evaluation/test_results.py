from __future__ import annotations

from s2v_ray.evaluation.results import mean_interval
from s2v_ray.metrics import bootstrap_mean
from tests.helpers.evaluated import RECIPE


def test_intervals_are_those_of_the_recipe() -> None:
    values = [1.0, 2.0, float("nan"), 4.0]
    expected = bootstrap_mean(values, RECIPE.evaluate.bootstrap, RECIPE.seed)
    assert mean_interval(values, RECIPE) == {
        "mean": expected.mean,
        "low": expected.low,
        "high": expected.high,
        "clips": 3,
    }
    assert mean_interval([], RECIPE) == {"mean": None, "low": None, "high": None, "clips": 0}
