"""What workers reserve on a cluster, worked out by hand."""

from __future__ import annotations

import pytest

from s2v_ray import storage
from s2v_ray.training.resources import worker_resources
from tests.helpers.recipes import debug_recipe


@pytest.mark.parametrize(
    ("cpus", "workers", "asked", "each", "data"),
    [(2, 1, 1, 1.0, 1.0), (2, 2, 1, 0.5, 1.0), (1, 1, 1, 0.5, 0.5), (64, 4, 8, 8.0, 1.0), (8, 2, 4, 3.0, 1.0)],
)
def test_decoding_always_finds_room(cpus: float, workers: int, asked: float, each: float, data: float) -> None:
    found = worker_resources(
        debug_recipe(f"parallel.workers={workers}", f"parallel.cpus_per_worker={asked}"), {"CPU": cpus}
    )
    assert found.per_worker == {"CPU": each} and found.task_cpus == data
    assert workers * each + found.task_cpus <= cpus


def test_elastic_workers_are_a_range() -> None:
    found = worker_resources(
        debug_recipe("parallel.workers=2", "parallel.min_workers=1", "parallel.gpu=true"), {"CPU": 8, "GPU": 1}
    )
    assert found.num_workers == (1, 2)


def test_too_small_a_cluster_is_an_error_at_once() -> None:
    with pytest.raises(storage.ArtifactError, match="needs as many GPUs, the cluster has 1"):
        worker_resources(debug_recipe("parallel.workers=2", "parallel.gpu=true"), {"CPU": 8, "GPU": 1})
