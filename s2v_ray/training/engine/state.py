"""State of a network in training, as pieces of flat tensors: any number of workers at any ZeRO stage can continue it.

Names are ``weights/NAME`` for weights and buffers, ``exp_avg/NAME`` and ``exp_avg_sq/NAME`` for Adam's moments of each
trained parameter, and ``step`` for its count of steps, which is the same for all parameters of an engine.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from s2v_ray.training.collective import sum_of_disjoint, worker

WEIGHTS, STEP = "weights", "step"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Piece:
    """Consecutive elements of a flattened tensor. The pieces of all workers make up the tensor exactly once.

    Attributes:
        shape: of the whole tensor.
        start: position of the first element.
        values: the elements, ``[n]``; there may be none.
    """

    shape: tuple[int, ...]
    start: int
    values: Tensor

    def copied(self) -> Piece:
        """Return a copy on the CPU."""
        return replace(self, values=self.values.detach().to("cpu", copy=True))

    def gathered(self) -> Tensor:
        """Return the whole tensor, on the CPU. All workers call it."""
        return assemble(self.shape, self.values.dtype, [self])


class SavedState(Protocol):
    """State that was saved. All workers call its methods equally often and in the same order."""

    @property
    def names(self) -> Collection[str]:
        """Names of all tensors; the same on all workers."""

    def full(self, name: str) -> Tensor:
        """Return a whole tensor, on the CPU."""


class Sharded(Protocol):
    """What all workers save together, each its own pieces."""

    def snapshot(self) -> dict[str, Piece]:
        """Return copies of this worker's pieces, by the tensor's name."""

    def load(self, saved: SavedState) -> None:
        """Continue from what ``snapshot`` gave on any number of workers. All workers call it."""


def share_of(value: Tensor) -> Piece:
    """Cut out this worker's share of a tensor that all workers have: equal parts, the last ones may be smaller."""
    rank, world = worker()
    size = -(-value.numel() // world)
    start = min(rank * size, value.numel())
    return Piece(tuple(value.shape), start, value.flatten()[start : start + size])


def assemble(shape: tuple[int, ...], dtype: torch.dtype, pieces: Collection[Piece]) -> Tensor:
    """Return the whole tensor of which each worker has some pieces, on the CPU. All workers call it."""
    whole = torch.zeros(shape, dtype=dtype)
    flat = whole.view(-1)
    for piece in pieces:
        flat[piece.start : piece.start + len(piece.values)] = piece.values.detach().cpu()
    return sum_of_disjoint(whole)


def replicated_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Piece]:
    """Return copies of this worker's share of a module and an Adam optimizer that all workers have whole."""
    tensors = {f"{WEIGHTS}/{name}": value for name, value in module.state_dict().items()}
    for name, p in module.named_parameters():
        if moments := optimizer.state.get(p):
            tensors |= {f"{key}/{name}": moments[key] for key in MOMENTS} | {STEP: moments[STEP]}
    return {name: share_of(value).copied() for name, value in tensors.items()}


@torch.no_grad()
def load_replicated(module: nn.Module, optimizer: torch.optim.Optimizer, saved: SavedState) -> None:
    """Continue from a saved state on a worker that has the module and the optimizer whole. All workers call it."""
    for name, value in module.state_dict().items():
        value.copy_(saved.full(f"{WEIGHTS}/{name}"))
    step = read_step(saved)
    for name, p in module.named_parameters():
        if (moments := read_moments(saved, name)) and step is not None:
            optimizer.state[p] = {key: value.to(p.device) for key, value in (moments | {STEP: step.clone()}).items()}


def read_step(saved: SavedState) -> Tensor | None:
    """Return Adam's count of steps, or None if the state was saved before the first one. All workers call it."""
    return saved.full(STEP) if STEP in saved.names else None


def read_moments(saved: SavedState, name: str) -> dict[str, Tensor]:
    """Return Adam's moments of a parameter; {} if none were saved. All workers call it."""
    return {key: saved.full(f"{key}/{name}") for key in MOMENTS if f"{key}/{name}" in saved.names}
