"""Concurrent trials on given nodes, worked out by hand."""

from __future__ import annotations

import pytest

from s2v_ray.config import load_recipe
from s2v_ray.tuning.parameters import SpaceError
from s2v_ray.tuning.placement import Slots, trial_slots

GIB = 2.0**30


def node(cpus: float, gpus: float = 0.0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "memory": 64 * GIB}


@pytest.mark.parametrize(
    ("nodes", "changes", "wanted", "count", "share"),
    [
        ([node(2)], (), None, 1, {"CPU": 2.0, "GPU": 0.0}),  # a worker and the decoding take both CPUs
        ([node(1)], (), None, 1, {"CPU": 1.0, "GPU": 0.0}),
        ([node(2)], (), 4, 4, {"CPU": 0.5, "GPU": 0.0}),  # on purpose: a quarter for the worker, a quarter to decode
        ([node(8)], (), None, 4, {"CPU": 2.0, "GPU": 0.0}),
        ([node(16, 4)], ("parallel.gpu=true",), None, 4, {"CPU": 4.0, "GPU": 1.0}),
        ([node(16, 4), node(16, 4)], ("parallel.gpu=true", "parallel.workers=4"), None, 2, {"CPU": 16.0, "GPU": 4.0}),
        (
            [node(2), node(2), node(2)],
            ("parallel.workers=2",),
            None,
            2,
            {"CPU": 3.0, "GPU": 0.0},
        ),  # the workers of one stand on two nodes
        ([node(3), node(3)], ("parallel.cpus_per_worker=2",), None, 2, {"CPU": 3.0, "GPU": 0.0}),
    ],
)
def test_as_many_trials_as_fit(
    nodes: list[dict[str, float]], changes: tuple[str, ...], wanted: int | None, count: int, share: dict[str, float]
) -> None:
    assert trial_slots(nodes, load_recipe("debug", list(changes)), wanted) == Slots(count, share)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(
        SpaceError,
        match="one trial does not fit: parallel.workers=2 with parallel.gpu needs as many GPUs, the cluster has 1",
    ):
        trial_slots([node(8, 1)], load_recipe("debug", ["parallel.gpu=true", "parallel.workers=2"]))
    with pytest.raises(SpaceError, match="3 trials at once do not fit: parallel.workers=1 with parallel.gpu needs"):
        trial_slots([node(8, 2)], load_recipe("debug", ["parallel.gpu=true"]), 3)
    with pytest.raises(SpaceError, match="one trial does not fit: the nodes have 2 CPUs"):
        trial_slots([{"CPU": 2.0, "memory": 1e6}], load_recipe("debug"))  # no memory for the trial's own process
