"""Collective operations between the workers of a run, beyond gradients. A single process counts as one worker."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def worker() -> tuple[int, int]:
    """Return this worker's rank and the number of workers."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def barrier() -> None:
    """Wait until all workers have called it."""
    if dist.is_initialized():
        dist.barrier()


def gather(value: Any) -> list[Any]:
    """Return each worker's value (any picklable object) by rank. All workers call it."""
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def from_first(value: Any) -> Any:
    """Return worker 0's value. All workers call it."""
    found = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(found, 0)
    return found[0]


def mean(values: Tensor) -> Tensor:
    """Average over workers, on the CPU. All workers call it, with the same shape."""
    if not dist.is_initialized():
        return values.cpu()
    moved = values.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    dist.all_reduce(moved)
    return (moved / dist.get_world_size()).cpu()


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Copy worker 0's values into ``tensors``, in place. All workers call it, with the same shapes."""
    if worker()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def sum_of_disjoint(value: Tensor) -> Tensor:
    """Add up tensors of which at most one worker's differs from 0 at each element, exactly, on the CPU.

    All workers call it, with the same shape and type.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value.cpu()
    moved = value.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True).contiguous()
    dist.all_reduce(moved.reshape(-1).view(torch.uint8))  # bytes: a sum of floats would lose the sign of -0.0
    return moved.cpu()
