"""The moving average, whole and in pieces."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from s2v_ray.training.average import MovingAverage
from s2v_ray.training.engine import make_engine
from s2v_ray.training.shard_files import PieceFiles, write_pieces
from tests.helpers.toy_gan import adam, config
from tests.helpers.workers import on_workers

STAGES = (0, 1, 2, 3)


def averaged(rank: int, world: int, folder: str) -> dict[int, tuple[dict[str, Tensor], int]]:
    """The average after two steps, restored into another one, and the elements that this worker stores; by stage."""
    found = {}
    for stage in STAGES:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
        module[1].weight.requires_grad_(False)
        groups = [{"params": [p for p in module.parameters() if p.requires_grad]}]
        engine = make_engine(module, groups, adam(0.1), config(world), zero_stage=stage)
        average, other = MovingAverage(engine), MovingAverage(engine)
        for step in range(2):
            engine.backward(engine(torch.full((2, 3), step + 1.0)).sum())
            engine.step()
            average.update(0.75)
        path = Path(folder, f"{world}-{stage}")
        path.mkdir(parents=True, exist_ok=True)
        write_pieces(path / f"{rank}.safetensors", average.snapshot())
        if world > 1:
            torch.distributed.barrier()
        other.load(PieceFiles(sorted(path.iterdir())[rank::world]))
        found[stage] = other.gathered(), sum(len(piece.values) for piece in average.pieces.values())
    return found


def test_it_is_the_same_at_every_stage_and_stored_once(tmp_path: Path) -> None:
    (alone,) = on_workers(1, averaged, str(tmp_path))
    workers = on_workers(2, averaged, str(tmp_path))
    expected, elements = alone[0]
    assert expected.keys() == {"0.weight", "0.bias", "1.bias"} and elements == 15 + 5 + 1
    for stage in STAGES:
        assert sum(found[stage][1] for found in workers) == elements
        for found in workers:
            torch.testing.assert_close(found[stage][0], expected, rtol=1e-5, atol=1e-6)


def test_it_moves_towards_the_parameters() -> None:
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(8.0)
    engine = make_engine(module, [{"params": module.parameters()}], adam(0.1), config(1))
    average = MovingAverage(engine)
    module.weight.data.fill_(4.0)
    average.update(0.75)
    assert average.gathered()["weight"].tolist() == [[7.0]]
    assert module.weight.tolist() == [[4.0]]
