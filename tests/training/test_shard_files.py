"""Pieces of tensors in files, read by any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v_ray.training.engine.state import Piece, share_of
from s2v_ray.training.shard_files import PieceFiles, write_pieces
from tests.helpers.workers import on_workers


def tensors() -> dict[str, Tensor]:
    return {
        "matrix": torch.arange(15.0).reshape(3, 5) - 7.0,
        "scalar": torch.tensor(3.0),
        "signs": torch.tensor([-0.0, 0.0, float("nan"), float("-inf")]),
        "count": torch.tensor([2**40, -1]),
        "flags": torch.tensor([True, False, True]),
    }


def write(rank: int, world: int, folder: str) -> None:
    write_pieces(Path(folder, f"{rank}.safetensors"), {name: share_of(value) for name, value in tensors().items()})


def read(rank: int, world: int, folder: str) -> tuple[list[str], dict[str, Tensor]]:
    files = PieceFiles(sorted(Path(folder).iterdir())[rank::world])
    return sorted(files.names), {name: files.full(name) for name in sorted(files.names)}


def same_bits(found: Tensor, expected: Tensor) -> bool:
    return (
        found.shape == expected.shape
        and found.dtype == expected.dtype
        and torch.equal(found.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8))
    )


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_tensors_of_any_type_come_back_bit_by_bit(tmp_path: Path, before: int, after: int) -> None:
    on_workers(before, write, str(tmp_path))
    for names, found in on_workers(after, read, str(tmp_path)):
        assert names == sorted(tensors())
        assert all(same_bits(found[name], value) for name, value in tensors().items())


def test_each_element_is_in_one_file(tmp_path: Path) -> None:
    on_workers(3, write, str(tmp_path))
    sizes = [file.stat().st_size for file in sorted(tmp_path.iterdir())]
    assert len(sizes) == 3 and sizes[0] > sizes[2]


def test_a_file_without_pieces_and_a_tensor_that_no_file_has(tmp_path: Path) -> None:
    empty: dict[str, Any] = {"w": Piece((3,), 3, torch.zeros(0))}
    write_pieces(tmp_path / "0.safetensors", empty)
    files = PieceFiles([tmp_path / "0.safetensors"])
    assert not files.names
    with pytest.raises(KeyError):
        files.full("w")
