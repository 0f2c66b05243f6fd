"""Peak memory of one rank compared with ZeRO's arithmetic: stages 0 to 3, 1, 2 and 4 workers (gloo, CPU).

    python -m tests.bench.bench_memory [--millions 32] [--json PATH]

A perceptron of ``--millions`` parameters, so that model states dominate, is trained by ``training.engine`` with
Adam in fp32, as in every recipe. Memory is the process's resident set (VmRSS; its peak, VmHWM, is reset when
training starts), minus its value before the model was built and after a tiny engine of the same stage had run. So
libraries and threads of gloo are not counted, and every other allocation is. glibc is configured to map large
blocks and to return them at once. The arithmetic is ``planning.memory_per_rank``: 4 bytes each for a weight, its
gradient and Adam's two moments, and from stage 1 on DeepSpeed's copy of the weights, split according to the stage.

The phase of the peak, and its memory beyond the arithmetic, are listed as follows. A single worker trains in plain
torch at any stage (``engine.TorchEngine``), and has none of them:

- buckets. Backward, stages 1 and 2: gradients in transit, ``deepspeed_api.BUCKET_ELEMENTS`` (25 million in training for
  any model; here ``--bucket``, so that they do not dominate). Stage 3: twice as much, and the same again for gathered
  weights. Stage 0: DeepSpeed flattens all gradients at once.
- flat copy. Step, from stage 1 on: DeepSpeed flattens its part of the gradients before it frees them. (At stages 1
  and 2 the other parts are freed by then.)
- gather. End of a step, stages 1 and 2, several workers: gradients and their copy are freed, and DeepSpeed gathers
  all weights in one call (``all_gather_into_tensor``, for any size of the bucket), which gloo receives into a copy
  of all of them. NCCL gathers in place.
- left: activations, the layer in progress, and memory without an explanation.

Bar: the peak within 10% of the arithmetic, or of the arithmetic and these lines. It takes about 5 min on two cores.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from s2v_ray.cluster import planning  # noqa: E402
from s2v_ray.training.engine import EngineConfig, OptimizerConfig, deepspeed_api, make_engine  # noqa: E402
from tests.helpers.results import write_result
from tests.helpers.workers import on_workers  # noqa: E402

WIDTH, BATCH, STEPS = 1024, 8, 3
WORKERS, STAGES = (1, 2, 4), (0, 1, 2, 3)
MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=32.0, help="parameters of the model")
    parser.add_argument("--bucket", type=int, default=2_000_000, help="elements of a bucket")
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    parser.add_argument("--stages", type=int, nargs="+", default=STAGES)
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    os.environ |= {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    rows = [row(stage, workers, args) for workers in args.workers for stage in args.stages]
    print("\nMB of one rank, the largest of all")
    names = ("weights", "gradients", "optimizer", "buckets", "flat copy", "gather", "left")
    print(
        f"{'workers':>7}{'stage':>6}{'arithmetic':>12}{'peak':>8}{'ratio':>7}  {'phase':<9}"
        + "".join(f"{n:>11}" for n in names)
        + f"{'with lines':>12}"
    )
    for r in rows:
        print(
            f"{r['workers']:7}{r['stage']:6}{r['arithmetic']:12.1f}{r['peak']:8.1f}{r['ratio']:7.3f}  {r['phase']:<9}",
            end="",
        )
        print("".join(f"{r['lines'][n]:11.1f}" for n in names) + f"{r['explained']:12.3f}")
    print("\nMB in tensors that live between the phases, each storage counted once")
    names = ("weights", "copy", "moments", "gradients", "other")
    print(
        f"{'workers':>7}{'stage':>6} | after a backward:"
        + "".join(f"{n:>10}" for n in names)
        + " | after a step:"
        + "".join(f"{n:>10}" for n in names)
    )
    for r in rows:
        print(
            f"{r['workers']:7}{r['stage']:6} |{'':17}" + "".join(f"{r['after_backward'][n]:10.1f}" for n in names),
            end=" |",
        )
        print(f"{'':14}" + "".join(f"{r['after_step'][n]:10.1f}" for n in names))
    if args.json:
        write_result(args.json, {"millions": args.millions, "bucket": args.bucket, "rows": rows})


def row(stage: int, workers: int, args: argparse.Namespace) -> dict[str, Any]:
    layers = max(1, round(args.millions * 1e6 / (WIDTH * (WIDTH + 1))))
    ranks = on_workers(workers, measure, stage, layers, args.bucket)
    found = max(ranks, key=lambda r: r["peak"])
    p = 4 * layers * WIDTH * (WIDTH + 1) / MB
    bucket = min(4 * args.bucket / MB, p)
    due = {
        name: size / MB
        for name, size in planning.memory_per_rank(
            planning.EngineParameters(round(p * MB / 4), 0, stage), workers
        ).items()
    }
    states = {name: due[name] for name in ("weights", "gradients", "optimizer")}
    phase = max(("backward", "step"), key=lambda name: found[f"peak_{name}"])
    lines = states | {
        "buckets": {0: p, 3: 3 * bucket}.get(stage, bucket) if workers > 1 else 0.0,
        "flat copy": 0.0,
        "gather": 0.0,
    }
    if workers > 1 and phase == "step":
        part = p / workers if stage else p
        lines |= {"buckets": 2 * bucket if stage == 3 else 0.0, "gradients": part, "flat copy": part if stage else 0.0}
        if stage in (1, 2) and p > 2 * part:  # the later of the step's two heights is the higher one
            lines |= {"gradients": 0.0, "flat copy": 0.0, "gather": p}
    explained = sum(lines.values())
    arithmetic = sum(states.values())
    print(f"{workers} workers, stage {stage}: {found['peak']:.0f} MB", file=sys.stderr, flush=True)
    shown = {
        "workers": workers,
        "stage": stage,
        "arithmetic": arithmetic,
        "ratio": found["peak"] / arithmetic,
        "phase": phase,
    }
    return shown | {
        "lines": lines | {"left": found["peak"] - explained},
        "explained": found["peak"] / explained,
        **found,
    }


def measure(rank: int, world: int, stage: int, layers: int, bucket: int) -> dict[str, Any]:
    """MB of this rank: peak while it trains, and tensors by what they are."""
    deepspeed_api.BUCKET_ELEMENTS = bucket
    train(world, stage, 1, 64)
    gc.collect()
    before = resident("VmRSS")
    return train(world, stage, layers, WIDTH, before)


def train(world: int, stage: int, layers: int, width: int, before: float = 0.0) -> dict[str, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    config = EngineConfig(world_size=world, micro_batch=BATCH, grad_clip=1.0)
    optimizer = OptimizerConfig(1e-4, (0.5, 0.99))
    made = make_engine(model, [{"params": model.parameters()}], optimizer, config, zero_stage=stage)
    x = torch.randn(BATCH, width)
    found: dict[str, Any] = {}
    for _ in range(STEPS):
        gc.collect()
        forget_peak()
        made.backward(made(x).square().mean())
        found["peak_backward"], found["after_backward"] = resident("VmHWM") - before, tensors(made)
        forget_peak()
        made.step()
        found["peak_step"] = resident("VmHWM") - before
    found["after_step"] = tensors(made)
    return found | {"peak": max(found["peak_backward"], found["peak_step"])}


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> float:
    """MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024 / MB


def tensors(made: Any) -> dict[str, float]:
    """MB of all tensors' storages by what they are, each counted once."""
    optimizer = made._optimizer
    parameters = list(made.module.parameters())
    groups = {
        "weights": [t for p in parameters for t in (p, getattr(p, "ds_tensor", None))],
        "copy": [p for g in optimizer.param_groups for p in g["params"]],
        "moments": [v for state in optimizer.state.values() for v in state.values()],
        "gradients": [p.grad for p in (*parameters, *(q for g in optimizer.param_groups for q in g["params"]))],
        "other": [t for t in gc.get_objects() if isinstance(t, torch.Tensor)],
    }
    seen: set[int] = set()
    found = {}
    for name, members in groups.items():
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in members
            if isinstance(t, torch.Tensor) and t.device.type == "cpu"
        }
        found[name] = sum(size for pointer, size in storages.items() if pointer not in seen) / MB
        seen |= storages.keys()
    return found


if __name__ == "__main__":
    main()
