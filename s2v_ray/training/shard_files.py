"""Files of tensor pieces (safetensors): each worker writes its own, and any number of workers reads them together."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from s2v_ray.training.collective import gather
from s2v_ray.training.engine.state import Piece, assemble

PIECES = "pieces"
"""Entry of a file's metadata: tensor -> position of the first element, then the shape of the whole tensor."""


def write_pieces(path: Path, pieces: Mapping[str, Piece]) -> None:
    """Write pieces to a file; empty ones are left out."""
    found = {name: piece for name, piece in pieces.items() if len(piece.values)}
    places = {name: [piece.start, *piece.shape] for name, piece in found.items()}
    save_file({name: piece.values for name, piece in found.items()}, path, metadata={PIECES: json.dumps(places)})


class PieceFiles:
    """A ``SavedState`` in files of which each worker reads some, and all of which some worker reads.

    All workers make one and call ``full`` equally often and in the same order: the pieces are exchanged between them.

    Args:
        paths: the files that this worker reads.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._places: list[tuple[Path, dict[str, list[int]]]] = []
        mine: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for path in paths:
            with safe_open(path, framework="pt") as file:
                places = json.loads(file.metadata()[PIECES])
                self._places.append((path, places))
                for name, (_, *shape) in places.items():
                    mine[name] = tuple(shape), file.get_slice(name)[:0].dtype
        self._known = {name: kind for worker in gather(mine) for name, kind in worker.items()}

    @property
    def names(self) -> Collection[str]:
        """See ``SavedState``."""
        return self._known.keys()

    def full(self, name: str) -> Tensor:
        """See ``SavedState``.

        Raises:
            KeyError: no file has a piece of it.
        """
        shape, dtype = self._known[name]
        return assemble(shape, dtype, list(self._read(name)))

    def _read(self, name: str) -> Iterable[Piece]:
        for path, places in self._places:
            if name in places:
                start, *shape = places[name]
                with safe_open(path, framework="pt") as file:
                    yield Piece(tuple(shape), start, file.get_tensor(name))
