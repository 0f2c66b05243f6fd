from __future__ import annotations

import math

import pytest

from s2v_ray.cluster.manifests import Group
from s2v_ray.cluster.planning import (
    Assumptions,
    CorpusSize,
    Measurement,
    Price,
    compare,
    daly_interval,
    estimate,
    overhead,
    project,
)
from tests.helpers.plans import MANY_REQUESTS, inputs


@pytest.mark.parametrize(
    ("changes", "workers", "bottleneck", "rate"),
    [
        ({}, 1, "GPU", 10.0),
        ({"corpus": CorpusSize(1000, 1e8, 4.0)}, 8, "network", 20.0),  # 2 cards of 1 GB/s, 100 MB a clip
        ({"assumed": MANY_REQUESTS}, 1024, "S3 requests", 5500 / 1.5),
        (
            {"measured": Measurement(80.0, 8, True, decode_clips_per_cpu_second=0.5)},
            8,
            "decoding",
            24.0,
        ),  # 96 CPUs - 8 * 6, half a clip each
        ({"price": Price(2.0, 1.0, 1e7)}, 8, "all-reduce", 128 / (1.6 + 17.5 + 0.014)),
    ],
)
def test_the_bottleneck(changes: dict[str, object], workers: int, bottleneck: str, rate: float) -> None:
    row = estimate(inputs(**changes), workers, 1000)
    assert (row.bottleneck, row.clips_per_second) == (bottleneck, pytest.approx(rate))


def test_hours_and_cost() -> None:
    row = estimate(inputs(), 1, 36_000)
    assert row.hours == pytest.approx(1.0)  # 36,000 clips at 10 a second
    assert row.cost == pytest.approx(2.5)  # a node and the head
    assert row.overhead == 1.0 and row.interval is None
    paid = estimate(inputs(get_price=1e-3), 1, 36_000)
    assert paid.cost == pytest.approx(2.5 + 36_000 * 0.75e-3)


def test_spot_nodes_take_more_hours() -> None:
    spot = inputs(
        group=Group("train", "train", 48, 4, 256, False, "", "x", spot=True),
        assumed=Assumptions(losses_per_node_hour=0.1),
    )
    row = estimate(spot, 8, 36_000)
    save = 0.3 / 8  # GB of a worker, its part of the weights and two moments, at 0.1 GB/s
    assert row.save_seconds == pytest.approx(save * 10)
    assert row.interval is not None
    assert row.interval == pytest.approx(daly_interval(save * 10, 3600 / 0.2))
    assert row.overhead == pytest.approx(overhead(row.interval, save * 10, 300, 18_000))


def test_the_projection() -> None:
    found = project(inputs(assumed=MANY_REQUESTS), 1024, 1e6)
    assert found.clips == 9e8  # 3.6e9 s in clips of 4 s
    assert found.corpus_bytes == 9e14
    assert found.shards == math.ceil(9e8 / 64)
    assert found.index_requests == found.shards * 3 * 1024
    assert found.row.hours == pytest.approx(9e8 / (5500 / 1.5) / 3600)


def test_predictions_are_compared_with_other_runs() -> None:
    (found,) = compare(inputs(), [Measurement(20.0, 2, gpu=True, origin="two")])
    assert found.predicted == pytest.approx(32 / (1.6 + 0.01 + 0.002))
    assert found.error == pytest.approx(found.predicted / 20 - 1)
