"""Collective operations: alone, and between two workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from s2v_ray.training import collective
from tests.helpers.workers import on_workers


def all_operations(rank: int, world: int) -> dict[str, Any]:
    collective.barrier()
    return {
        "worker": collective.worker(),
        "gather": collective.gather(f"value {rank}"),
        "from_first": collective.from_first(f"value {rank}"),
        "mean": collective.mean(torch.tensor([float(rank), 2.0])),
    }


def test_a_single_process_is_one_worker() -> None:
    found = all_operations(0, 1)
    assert found["worker"] == (0, 1) and found["gather"] == ["value 0"] and found["from_first"] == "value 0"
    assert found["mean"].tolist() == [0.0, 2.0]


@pytest.mark.slow
def test_two_workers_share_their_values() -> None:
    for rank, found in enumerate(on_workers(2, all_operations)):
        assert found["worker"] == (rank, 2)
        assert found["gather"] == ["value 0", "value 1"] and found["from_first"] == "value 0"
        assert found["mean"].tolist() == [0.5, 2.0]
