"""What a GPU makes of a GAN step.

    python -m tests.bench.bench_step [--recipe full] [--clips 16] [--rounds 3] [--steps 60]

Needs a CUDA device: the step of the 128 x 128 recipe in bf16, as training runs it, beside the same step in fp32 and
plain eager torch (bar: at most 0.5), on tensors in memory; and its share of the roofline. For every operation of a
step, forward, backward and update, arithmetic and bytes (inputs and outputs, once each) are counted; at the ceilings
measured here (a large product of bf16 matrices, a large copy) it would take the longer of the two times. Their sum is
the roofline's time; what the step takes beyond it are operations below their ceiling, and gaps between them. What Ray
Train and the engines cost beside a bare loop, and the share of waiting for data, is what ``bench_stream`` prints.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from s2v_ray.clip import ClipBatch
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.data.decode import REFERENCES
from s2v_ray.training.engine import EngineConfig, make_engine
from s2v_ray.training.tasks.adversaries import ADVERSARIES, Adversaries
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.gan import GanTask
from tests.bench.plain_training import make_bare_engine
from tests.helpers.results import write_result

EMOTIONS, IDENTITY = ("neutral", "happy", "sad", "angry", "surprised", "fearful"), 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="full")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--on-cpu", action="store_true", help="to see that it runs; its figures mean nothing")
    parser.add_argument("--clips", type=int, default=16, help="a step; 16 are one worker's share of `full`")
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    if not (torch.cuda.is_available() or args.on_cpu):
        print("this needs a CUDA device, and this machine has none")
        return 1
    found = measure(args)
    if args.json:
        write_result(args.json, found)
    return 0


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    starts = [f"gan.discriminators.{name}.{key}=0" for name in ADVERSARIES for key in ("start", "ramp", "head_start")]
    recipe = load_recipe(args.recipe, [*starts, "parallel.workers=1", f"gan.batch={args.clips}", *args.overrides])
    device = torch.device("cpu" if args.on_cpu else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    batch = batch_of(recipe, device)
    config = EngineConfig(micro_batch=args.clips, grad_clip=recipe.parallel.grad_clip)
    engines: dict[str, Callable[..., Any]] = {
        "bf16, as trained": functools.partial(make_engine, config=replace(config, bf16=True)),
        "fp32, eager": functools.partial(make_bare_engine, config=config),
    }
    steps = {}
    for name, factory in engines.items():
        torch.manual_seed(0)
        model, judges = (
            Speech2Video(recipe, IDENTITY, EMOTIONS).to(device),
            Adversaries(recipe, IDENTITY, len(EMOTIONS)).to(device),
        )
        task = GanTask(TaskContext(recipe, "", factory, device), model, judges, {})
        steps[name] = functools.partial(task.step, batch)
    rounds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(args.rounds + 1):
        for name, step in steps.items():
            began = clock(device)
            for k in range(args.steps):
                step(k)
            if i:  # the first warms up: kernels are chosen
                rounds[name].append((clock(device) - began) / args.steps)
    medians = {name: statistics.median(seconds) for name, seconds in rounds.items()}
    trained, eager = medians.values()
    print(
        f"{args.clips} clips of {recipe.gan.frames} frames, {recipe.media.size} x {recipe.media.size}, recipe "
        f"{recipe.name}"
    )
    for name, seconds in medians.items():
        print(f"{name:18}{1000 * seconds:10.1f} ms a step")
    print(f"ratio of medians over {args.rounds} rounds: {trained / eager:.3f} (bar: at most 0.5)")
    ceilings = measure_ceilings(device, torch.bfloat16, 256 if args.on_cpu else 8192)
    with Counter(ceilings) as counted:
        for k in range(COUNTED_STEPS := 4):  # an interval of every discriminator
            steps["bf16, as trained"](k)
    flops, size, ideal, arithmetic = (
        x / COUNTED_STEPS for x in (counted.flops, counted.bytes, counted.seconds, counted.bound_by_arithmetic)
    )
    print(f"ceilings measured: {ceilings[0] / 1e12:.1f} Tflop/s (bf16), {ceilings[1] / 1e9:.0f} GB/s")
    print(
        f"counted in a step: {flops / 1e12:.3f} Tflop, {size / 1e9:.2f} GB, {counted.calls / COUNTED_STEPS:.0f} "
        "operations"
    )
    print(f"{'roofline':34}{1000 * ideal:10.1f} ms  {ideal / trained:7.1%} of the step")
    print(f"{'  bound by arithmetic':34}{1000 * arithmetic:10.1f} ms  {arithmetic / trained:7.1%}")
    print(f"{'  bound by memory':34}{1000 * (ideal - arithmetic):10.1f} ms  {(ideal - arithmetic) / trained:7.1%}")
    print(
        f"{'beyond: below ceilings, and gaps':34}{1000 * (trained - ideal):10.1f} ms  "
        f"{(trained - ideal) / trained:7.1%}"
    )
    for name, seconds in sorted(counted.by_operation.items(), key=lambda item: -item[1])[:8]:
        print(f"    {name:30}{1000 * seconds / COUNTED_STEPS:10.2f} ms of the roofline")
    return {
        "rounds": rounds,
        "medians": medians,
        "ratio": trained / eager,
        "ceilings": ceilings,
        "flops": flops,
        "bytes": size,
        "roofline": ideal / trained,
    }


def batch_of(recipe: Recipe, device: torch.device) -> ClipBatch:
    config, size, rng = recipe.gan, recipe.media.size, torch.Generator().manual_seed(0)
    b, t, length = config.batch, config.frames, config.speech_frames
    return ClipBatch(
        frames=torch.randint(0, 256, (b, t, size, size, 3), dtype=torch.uint8, generator=rng),
        speech=0.1 * torch.randn(b, length * 640, generator=rng),
        index=torch.arange(t).expand(b, -1),
        consecutive=torch.arange(b) % 3 == 0,
        speech_mask=torch.ones(b, length, dtype=torch.bool),
        references=torch.randint(0, 256, (b, REFERENCES, size, size, 3), dtype=torch.uint8, generator=rng),
        identity=F.normalize(torch.randn(b, IDENTITY, generator=rng), dim=-1),
        emotion=torch.randn(b, length, len(EMOTIONS), generator=rng),
    ).to(device)


def measure_ceilings(device: torch.device, dtype: torch.dtype, side: int) -> tuple[float, float]:
    """flop/s of a product of square matrices of ``side``, and bytes/s of a copy (read and written), the best of ten."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.empty(4 * side * side, device=device)
    target = torch.empty_like(source)

    def best(work: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(12):
            began = clock(device)
            work()
            seconds.append(clock(device) - began)
        return min(seconds[2:])

    return 2 * side**3 / best(lambda: a @ b), 2 * source.numel() * 4 / best(lambda: target.copy_(source))


class Counter(TorchDispatchMode):
    """Arithmetic and bytes of every operation, and its shortest time at the ceilings. Views move nothing."""

    def __init__(self, ceilings: tuple[float, float]) -> None:
        super().__init__()
        self.ceilings = ceilings
        self.flops = self.bytes = self.seconds = self.bound_by_arithmetic = 0.0
        self.calls = 0
        self.by_operation: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        written = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        name = func.overloadpacket.__name__
        if not written or func.is_view or "empty" in name or name.startswith("detach"):
            return out
        flops = (
            float(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out))
            if func.overloadpacket in flop_registry
            else 0.0
        )
        size = float(sum(x.numel() * x.element_size() for x in read + written))
        arithmetic, memory = flops / self.ceilings[0], size / self.ceilings[1]
        self.flops, self.bytes, self.calls = self.flops + flops, self.bytes + size, self.calls + 1
        self.seconds += max(arithmetic, memory)
        self.bound_by_arithmetic += arithmetic if arithmetic > memory else 0.0
        self.by_operation[name] = self.by_operation.get(name, 0.0) + max(arithmetic, memory)
        return out


if __name__ == "__main__":
    sys.exit(main())
