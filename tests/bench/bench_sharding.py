"""Bytes of a checkpoint on several workers, and bytes that each reads at a resume.

    .venv/bin/python -m tests.bench.bench_sharding [--json PATH]

The engine of a model and the moving average of its weights are saved after one step, on one worker and on
``--workers``, and the latter checkpoint is restored on as many, on half of them and on one less. The bytes that a
worker reads are those of the files that it opens.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2v_ray.training import checkpoint, collective, lease, saving
from s2v_ray.training.average import MovingAverage
from s2v_ray.training.engine import EngineConfig, OptimizerConfig, make_engine
from tests.helpers.results import write_result
from tests.helpers.workers import on_workers

WIDTH = 2048


def networks(parameters: int, stage: int, world: int) -> dict[str, Any]:
    """Engine and moving average of about ``parameters`` parameters."""
    torch.manual_seed(0)
    layers = max(1, round(parameters / WIDTH**2))
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))
    groups = [{"params": list(model.parameters()), "name": "model"}]
    config = EngineConfig(micro_batch=1, grad_clip=1.0, world_size=world)
    engine = make_engine(model, groups, OptimizerConfig(1e-4, (0.9, 0.99)), config, zero_stage=stage)
    return {"model": engine, "average": MovingAverage(engine)}


def save(rank: int, world: int, run: str, parameters: int, stage: int) -> None:
    """Train one step and save its checkpoint."""
    sharded = networks(parameters, stage, world)
    engine = sharded["model"]
    engine.backward(engine(torch.randn(1, WIDTH)).square().mean())
    engine.step()
    attempt = collective.from_first(lease.begin_attempt(run, lease.acquire(run)) if rank == 0 else None)
    saver = saving.Saver(attempt, 1, patience=0.0)
    saver.save(1, sharded, {})
    saver.wait()


def restore(rank: int, world: int, run: str, parameters: int, stage: int) -> tuple[int, float]:
    """Restore the checkpoint; return the bytes of the files that this worker read, and the seconds."""
    sharded = networks(parameters, stage, world)
    sizes: list[int] = []
    fetch = checkpoint._fetch

    def counting(*args: Any) -> Path:
        path = fetch(*args)
        sizes.append(path.stat().st_size)
        return path

    checkpoint._fetch = counting
    began = time.monotonic()
    if checkpoint.resume(run, sharded) is None:
        raise RuntimeError(f"there is no checkpoint in {run}")
    return sum(sizes), time.monotonic() - began


def size_of(run: str) -> int:
    """Bytes of the files of a run's checkpoints."""
    return sum(path.stat().st_size for path in Path(run, "checkpoints").rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=300e6)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--stage", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    network = (int(options.parameters), options.stage)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, options.workers):
            on_workers(workers, save, f"{folder}/{workers}", *network)
            found[f"GB, {workers} workers"] = size_of(f"{folder}/{workers}") / 1e9
        total = size_of(f"{folder}/{options.workers}")
        found[f"total, {options.workers} workers / 1 worker"] = total / size_of(f"{folder}/1")
        for workers in (options.workers, options.workers // 2, options.workers - 1):
            read = on_workers(workers, restore, f"{folder}/{options.workers}", *network)
            most, seconds = (max(values) for values in zip(*read, strict=True))
            found[f"most bytes read by one of {workers} / (total / {workers})"] = most / (total / workers)
            found[f"seconds of the restart on {workers}"] = seconds
    for name, value in found.items():
        print(f"{name:50}{value:10.3f}")
    if options.json:
        write_result(options.json, found)


if __name__ == "__main__":
    main()
