"""What Ray exports for a replica has the values of its registry."""

from __future__ import annotations

from typing import Any

import pytest

from s2v_ray.serving import ray_metrics
from s2v_ray.serving.metrics import Metrics
from s2v_ray.serving.ray_metrics import RayMetrics

Key = tuple[str, tuple[tuple[str, str], ...]]


class Recorded:
    """A counter or a gauge of Ray that keeps its values, by name and tags."""

    values: dict[Key, float] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, tag_keys

    def _key(self, tags: dict[str, str]) -> Key:
        assert set(tags) == set(self.keys)
        return self.name, tuple(sorted(tags.items()))

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0, "Ray refuses others"
        self.values[self._key(tags)] = self.values.get(self._key(tags), 0.0) + value

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.values[self._key(tags)] = value


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> dict[Key, float]:
    found: dict[Key, float] = {}
    for kind in ("Counter", "Gauge"):
        monkeypatch.setattr(ray_metrics, kind, Recorded)
    monkeypatch.setattr(Recorded, "values", found)
    return found


def test_values_are_those_of_the_registry_however_often_they_are_copied(values: dict[Key, float]) -> None:
    metrics = Metrics()
    copies = RayMetrics(metrics.registry)
    metrics.requests.labels("/v1/models", "200").inc(3)
    metrics.live_limit.set(8)
    copies.copy()
    copies.copy()
    metrics.requests.labels("/v1/models", "200").inc(2)
    metrics.requests.labels("/v1/models", "404").inc()
    metrics.live_limit.set(4)
    copies.copy()
    assert values["s2v_requests", (("path", "/v1/models"), ("status", "200"))] == 5
    assert values["s2v_requests", (("path", "/v1/models"), ("status", "404"))] == 1
    assert values["s2v_live_limit", ()] == 4


def test_a_histogram_becomes_counters_with_its_buckets(values: dict[Key, float]) -> None:
    metrics = Metrics()
    for seconds in (0.07, 0.07, 3.0):
        metrics.first_byte.observe(seconds)
    RayMetrics(metrics.registry).copy()
    buckets: dict[Any, float] = {
        tags[0][1]: value for (name, tags), value in values.items() if name == "s2v_first_byte_seconds_bucket"
    }
    assert buckets == {"0.1": 2, "0.2": 2, "0.5": 2, "1.0": 2, "2.0": 2, "5.0": 3, "10.0": 3, "+Inf": 3}
    assert values["s2v_first_byte_seconds_count", ()] == 3
    assert values["s2v_first_byte_seconds_sum", ()] == pytest.approx(3.14)
    assert not any(name.endswith("_created") for name, _ in values)
