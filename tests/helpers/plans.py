"""Inputs of a plan with round numbers."""

from __future__ import annotations

from s2v_ray.cluster.manifests import Group
from s2v_ray.cluster.planning import Assumptions, CorpusSize, EngineParameters, Measurement, PlanInputs, Price
from s2v_ray.config import load_recipe

MANY_REQUESTS = Assumptions(requests_per_clip=1.5)
"""With these, S3 requests are the bottleneck of 1024 GPUs."""
FULL = load_recipe("full")
"""8 workers with 6 CPUs and a GPU each, 16 clips per worker, 200,000 steps of 128 clips."""


def inputs(**changes: object) -> PlanInputs:
    """4 GPUs a node; 10 clips/s a GPU; 25 million parameters to average, 0.1 GB; a network card of 1 GB/s."""
    values = {
        "recipe": FULL,
        "measured": Measurement(80.0, 8, gpu=True),
        "corpus": CorpusSize(1000, 1e6, 4.0),
        "group": Group("train", "train", 48, 4, 256, False, "", "x", spot=False),
        "price": Price(2.0, 24 * 2**30, 1e9),
        "head_hourly": 0.5,
        "get_price": 0.0,
        "engines": {"generator": EngineParameters(25_000_000, 0, 2)},
        "assumed": Assumptions(engine_seconds=0.0, hop_seconds=0.001, node_bandwidth=10e9, losses_per_node_hour=0.0),
    }
    return PlanInputs(**(values | changes))  # type: ignore[arg-type]
