from __future__ import annotations

import pytest

from s2v_ray.cluster.planning import EngineParameters, ZeroStage, checkpoint_bytes, count_parameters, memory_per_rank
from s2v_ray.config import load_recipe


@pytest.mark.parametrize(
    ("stage", "expected"),
    [  # 1000 trained, 500 frozen, 4 ranks: weights, gradients, optimizer
        (0, (6000, 4000, 8000)),
        (1, (6000, 4000, 3000)),
        (2, (6000, 1000, 3000)),
        (3, (1500, 1000, 3000)),
    ],
)
def test_memory_at_each_stage(stage: ZeroStage, expected: tuple[float, ...]) -> None:
    found = memory_per_rank(EngineParameters(1000, 500, stage, averaged=True), 4)
    assert (found["weights"], found["gradients"], found["optimizer"]) == expected
    assert found["moving average"] == 1000
    assert found["buckets"] == (8000 if stage else 0)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_single_worker_stores_no_copy_of_the_weights(stage: int) -> None:
    found = memory_per_rank(EngineParameters(1000, 500, stage), 1)
    assert (found["weights"], found["gradients"], found["optimizer"], found["buckets"]) == (6000, 4000, 8000, 0)
    offloaded = memory_per_rank(EngineParameters(1000, 500, 2, states_on_cpu=True), 1)
    assert (offloaded["gradients"], offloaded["buckets"]) == (4000, 8000)


def test_offloaded_states_take_no_memory_of_the_device() -> None:
    found = memory_per_rank(EngineParameters(1000, 500, 3, states_on_cpu=True, weights_on_cpu=True), 4)
    assert (found["weights"], found["gradients"], found["optimizer"]) == (0, 1000, 0)
    recipe = load_recipe(
        "debug", ["parallel.offload_optimizer=true", "parallel.zero_generator=2", "parallel.zero_discriminators=1"]
    )
    assert all(engine.states_on_cpu and not engine.weights_on_cpu for engine in count_parameters(recipe).values())


def test_a_checkpoint_has_the_same_size_for_any_number_of_workers() -> None:
    engine = EngineParameters(1000, 500, 2, averaged=True)
    assert checkpoint_bytes(engine, 1) == (6000 + 8000 + 4000, 18000)
    assert checkpoint_bytes(engine, 4) == (18000, 4500)
