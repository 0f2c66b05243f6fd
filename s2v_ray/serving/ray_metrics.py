"""Copies the metrics of a replica to Ray's, which Ray exports at one address of each node for all replicas there."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from ray.serve.metrics import Counter, Gauge

COPY_SECONDS = 2.0
"""Interval of the copies. Ray exports every 10 seconds; what a replica counts later, before it ends, is lost."""
CREATED = "_created"
"""Suffix of the time at which prometheus_client created a metric, which is not one of ours."""


class RayMetrics:
    """Metrics of Ray with the names, labels and values of a registry, and the tags of the replica.

    What a registry exports as ``s2v_requests_total`` is ``ray_s2v_requests_total`` there. The buckets, sums and counts
    of a histogram are counters too, so ``ray_s2v_request_seconds_bucket_total`` has the label ``le``.

    Args:
        registry: registry of the replica.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._counted: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def copy(self) -> None:
        """Copy all values. Counters grow by what was counted since the last copy."""
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.endswith(CREATED):
                    continue
                if family.type == "gauge":
                    self._set(sample, family.documentation)
                else:
                    self._count(sample, family.documentation)

    def copy_forever(self) -> None:
        """Copy every ``COPY_SECONDS`` in a thread that ends with the process."""

        def work() -> None:
            while True:
                self.copy()
                pause.wait(COPY_SECONDS)

        pause = threading.Event()
        threading.Thread(target=work, daemon=True, name="ray-metrics").start()

    def _set(self, sample: Sample, about: str) -> None:
        if sample.name not in self._gauges:
            self._gauges[sample.name] = Gauge(sample.name, about, tuple(sample.labels))
        self._gauges[sample.name].set(sample.value, dict(sample.labels))

    def _count(self, sample: Sample, about: str) -> None:
        key = sample.name, frozenset(sample.labels.items())
        added = sample.value - self._counted.get(key, 0.0)
        if added > 0:
            name = sample.name.removesuffix("_total")  # which Ray adds
            if name not in self._counters:
                self._counters[name] = Counter(name, about, tuple(sample.labels))
            self._counters[name].inc(added, dict(sample.labels))
            self._counted[key] = sample.value
