from __future__ import annotations

from s2v_ray.metrics import VALIDATION


def test_every_metric_has_a_best_end() -> None:
    """A sweep must know which of two values is the better one, so a ratio to the real clips cannot be in the table."""
    assert {metric.better for metric in VALIDATION.values()} == {"higher", "lower"}


def test_every_metric_is_described() -> None:
    assert all(metric.name and metric.about for metric in VALIDATION.values())
