"""Moving average of an engine's parameters, of which each worker stores and saves its own pieces."""

from __future__ import annotations

import torch
from torch import Tensor

from s2v_ray.training.engine import Engine
from s2v_ray.training.engine.state import WEIGHTS, Piece, SavedState


class MovingAverage:
    """Exponential moving average of the trained parameters of an engine, in float32. It begins with their values.

    Args:
        engine: the engine, whose parameters are equal on all workers.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pieces = {
            name: Piece(piece.shape, piece.start, piece.values.detach().float().clone())
            for name, piece in engine.own_weights().items()
        }

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Move by ``1 - decay`` towards the present parameters."""
        current = self.engine.own_weights()
        values = [piece.values.float() for piece in current.values()]
        torch._foreach_lerp_([self.pieces[name].values for name in current], values, 1 - decay)

    def gathered(self) -> dict[str, Tensor]:
        """Return the whole average by parameter name, on the CPU. All workers call it."""
        return {name: piece.gathered() for name, piece in self.pieces.items()}

    def snapshot(self) -> dict[str, Piece]:
        """See ``Sharded``."""
        return {f"{WEIGHTS}/{name}": piece.copied() for name, piece in self.pieces.items()}

    def load(self, saved: SavedState) -> None:
        """See ``Sharded``."""
        for name, piece in self.pieces.items():
            whole = saved.full(f"{WEIGHTS}/{name}").view(-1)
            piece.values.copy_(whole[piece.start : piece.start + len(piece.values)])
