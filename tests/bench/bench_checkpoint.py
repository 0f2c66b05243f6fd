"""Share of training time that checkpoints cost with a slow store: written beside training, and waited for.

    .venv/bin/python -m tests.bench.bench_checkpoint [--json PATH]

A DeepSpeed engine (ZeRO 1, one worker) with ``--megabytes`` of state trains for ``--seconds`` and takes a checkpoint
every ``--every`` seconds (the recipes `puppets`, `grid` and `full` leave minutes between two). The store takes
``--speed`` megabytes a second: a stand-in for the upload sleeps as long as that would take.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

from s2v_ray.training import lease, saving
from s2v_ray.training.engine import EngineConfig, OptimizerConfig, make_engine
from tests.helpers.results import write_result


def measure(options: argparse.Namespace, beside: bool) -> dict[str, float]:
    """Seconds in all, standing still for checkpoints, and of one checkpoint's upload."""
    width = 512
    layers = max(
        1, round(options.megabytes * 1e6 / 16 / width**2)
    )  # parameters twice (ZeRO keeps its own), two moments; 4 bytes each
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    config = EngineConfig(micro_batch=32, grad_clip=1.0)
    engine = make_engine(
        model, [{"params": model.parameters()}], OptimizerConfig(1e-4, (0.9, 0.99)), config, zero_stage=1
    )
    sizes: list[int] = []

    def slow(path: str, uri: str) -> None:
        sizes.append(Path(path).stat().st_size)
        time.sleep(sizes[-1] / (options.speed * 1e6))

    saving._upload = slow
    run = f"memory://bench/{beside}"
    saver = saving.Saver(lease.begin_attempt(run, lease.acquire(run)), 1, patience=0.0)
    x, taken, step = torch.randn(32, width), 0, 0
    began = time.monotonic()
    while time.monotonic() - began < options.seconds:
        engine.backward(engine(x).square().mean())
        engine.step()
        step += 1
        if time.monotonic() - began > options.every * (taken + 1):
            taken += 1
            saver.save(step, {"model": engine}, {})
            if not beside:
                saver.wait()
    seconds, waited = time.monotonic() - began, saver.waited
    saver.wait()
    return {
        "seconds": seconds,
        "waited": waited,
        "checkpoints": taken,
        "megabytes": sum(sizes) / max(1, taken) / 1e6,
        "steps": step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--speed", type=float, default=20.0, help="of the store, MB/s")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between checkpoints")
    parser.add_argument("--seconds", type=float, default=130.0)
    parser.add_argument("--json")
    options = parser.parse_args()
    found = {"beside training": measure(options, True), "waited for": measure(options, False)}
    print(f"{'':18}{'checkpoints':>12}{'MB each':>10}{'standing still':>16}{'share':>9}{'steps/s':>9}")
    for name, row in found.items():
        share, speed = row["waited"] / row["seconds"], row["steps"] / row["seconds"]
        print(
            f"{name:18}{row['checkpoints']:12.0f}{row['megabytes']:10.1f}{row['waited']:14.2f} "
            f"s{share:9.2%}{speed:9.1f}"
        )
    if options.json:
        write_result(options.json, found)


if __name__ == "__main__":
    main()
