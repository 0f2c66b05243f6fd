"""What our training costs beside a bare loop, and what a GPU makes of it.

    python tests/bench/bench_step.py CORPUS STUDENT [--recipe puppets] [--rounds 3] [--steps 60]
    python tests/bench/bench_step.py --gpu [--recipe full] [--clips 16]

The first, with a corpus and a distilled student: a GAN step through Ray Train, the training stream and the engines (`launch`, one worker), beside
the same step in a bare loop: the same networks, losses, Adam (fused) and clipping in plain torch, on batches that lie in memory. Each round runs
both, one after the other in processes of their own with the same memory allocator settings and threads, the order alternating; all discriminators
take part from the first step, and the first window of steps is left out. The ratio is that of the medians over rounds of the seconds a step,
waiting for data included. Bar: at most 1.05. (About 2 min a round on two cores.)

The second needs a CUDA device: the step of the 128 x 128 recipe in bf16, as training runs it, beside the same step in fp32 and plain eager torch (bar:
at most 0.5), on tensors in memory; and its share of the roofline. For every operation of a step, forward, backward and update, arithmetic and bytes
(inputs and outputs, once each) are counted; at the ceilings measured here (a large product of bf16 matrices, a large copy) it would take the longer
of the two times. Their sum is the roofline's time; what the step takes beyond it are operations below their ceiling, and gaps between them.
The share of waiting for data is what the first prints, with a corpus of this size on such a machine.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "training")]

from plain_engine import PlainEngine  # noqa: E402

from s2v_ray.clip import ClipBatch  # noqa: E402
from s2v_ray.config import Recipe, load_recipe  # noqa: E402
from s2v_ray.models.generator import Speech2Video  # noqa: E402
from s2v_ray.training.adversaries import ADVERSARIES, Adversaries  # noqa: E402
from s2v_ray.training.engine import make_engine  # noqa: E402
from s2v_ray.training.gan import GanTask, make_task  # noqa: E402

WINDOWS, KEPT_BATCHES = 6, 8
EMOTIONS, IDENTITY = ("neutral", "happy", "sad", "angry", "surprised", "fearful"), 256


class BareEngine(PlainEngine):
    """One optimizer on one device, as a tutorial would write it."""

    def step(self) -> None:
        if self.grad_clip:
            torch.nn.utils.clip_grad_norm_([p for g in self.optimizer.param_groups for p in g["params"]], self.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_bare_engine(module: Any, param_groups: Any, *, lr: float, betas: Any, weight_decay: float, bf16: bool, grad_clip: float, **_: Any) -> BareEngine:
    assert weight_decay == 0.0, "the GAN's players have none"
    groups = [dict(g, params=list(g["params"])) for g in param_groups]
    return BareEngine(module, torch.optim.Adam(groups, lr=lr, betas=betas, fused=True), grad_clip, bf16)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?")
    parser.add_argument("student", nargs="?", help="a bundle")
    parser.add_argument("--recipe", help="default: puppets; full with --gpu")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--gpu", action="store_true", help="the second comparison")
    parser.add_argument("--on-cpu", action="store_true", help="with --gpu: on the CPU, to see that it runs; its figures mean nothing")
    parser.add_argument("--clips", type=int, default=16, help="with --gpu: clips a step; 16 are one worker's share of `full`")
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--one", choices=["ours", "bare"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.gpu and not args.student:
        parser.error("give CORPUS and STUDENT, or --gpu")
    if args.gpu and not (torch.cuda.is_available() or args.on_cpu):
        print("--gpu needs a CUDA device, and this machine has none")
        return 1
    if args.one:
        print(json.dumps((ours if args.one == "ours" else bare)(args, recipe_of(args))))
        return 0
    found = on_gpu(args) if args.gpu else beside_a_bare_loop(args)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0


def recipe_of(args: argparse.Namespace) -> Recipe:
    settings = [f"gan.discriminators.{name}.{key}=0" for name in ADVERSARIES for key in ("start", "ramp")] + ["parallel.workers=1"]
    if args.gpu:
        return load_recipe(args.recipe or "full", [*settings, f"gan.batch={args.clips}", *args.overrides])
    every = max(1, args.steps // WINDOWS)
    settings += [f"gan.steps={every * WINDOWS}", f"log.log_every={every}", f"log.checkpoint_every={every * WINDOWS}", "log.validate_every=0"]
    return load_recipe(args.recipe or "puppets", [*settings, *args.overrides])


# ---- beside a bare loop


def beside_a_bare_loop(args: argparse.Namespace) -> dict[str, Any]:
    from s2v_ray.training.launch import MALLOC

    runs: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
    for i in range(args.rounds):
        for name in ("ours", "bare") if i % 2 == 0 else ("bare", "ours"):
            environment = os.environ | {"PYTHONPATH": str(ROOT)} | (MALLOC if name == "bare" else {})  # Ray's workers get it from `launch`
            done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", name], env=environment, stdout=subprocess.PIPE, text=True, check=True)
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"round {i + 1}, {name}: {runs[name][-1]['seconds']:.4f} s a step", file=sys.stderr, flush=True)
    medians = {name: statistics.median(r["seconds"] for r in rows) for name, rows in runs.items()}
    waiting = statistics.median(r["waiting"] for r in runs["ours"])
    print(f"{'':34}{'s a step':>10}")
    print(f"{'Ray Train, stream and engines':34}{medians['ours']:10.4f}   {waiting:.2%} of it waiting for data")
    print(f"{'bare loop, plain torch':34}{medians['bare']:10.4f}")
    print(f"ratio of medians over {args.rounds} rounds: {medians['ours'] / medians['bare']:.3f} (bar: at most 1.05)")
    return {"runs": runs, "medians": medians, "ratio": medians["ours"] / medians["bare"], "waiting": waiting}


def ours(args: argparse.Namespace, recipe: Recipe) -> dict[str, float]:
    from s2v_ray.training.launch import launch

    with tempfile.TemporaryDirectory() as run:
        launch("gan", recipe, args.corpus, run, student=args.student, progress=lambda line: print(line, file=sys.stderr))
        records = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
    kept = [r for r in records if "clips_per_second" in r][1:]
    return {"seconds": statistics.mean(recipe.gan.batch / r["clips_per_second"] for r in kept), "waiting": statistics.mean(r["data_wait"] for r in kept)}


def bare(args: argparse.Namespace, recipe: Recipe) -> dict[str, float]:
    from s2v_ray.training.engine import has_bf16
    from s2v_ray.training.stream import stream

    device = torch.device("cuda" if recipe.parallel.gpu else "cpu")
    torch.set_num_threads(recipe.parallel.threads or os.cpu_count() or 1)
    torch.manual_seed(recipe.seed * 1009)
    bf16 = recipe.parallel.bf16 == "on" or (recipe.parallel.bf16 == "auto" and has_bf16(device))
    factory = functools.partial(make_bare_engine, bf16=bf16, grad_clip=recipe.parallel.grad_clip)
    task = make_task(recipe, args.corpus, student=args.student, reference=False, make_engine=factory, device=device, rank=0, world=1)
    config = recipe.gan
    settings: dict[str, Any] = {"batch": config.batch, "frames": config.frames, "heard_frames": config.heard_frames, "seed": recipe.seed}
    kept = list(stream(args.corpus, "train", **settings, steps=KEPT_BATCHES, executor="local"))
    first, began = config.steps // WINDOWS, 0.0
    for step, batch in zip(range(config.steps), itertools.cycle(kept), strict=False):
        if step == first:
            began = clock(device)
        task.step(batch.to(device), step)
    return {"seconds": (clock(device) - began) / (config.steps - first)}


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# ---- on a GPU


def on_gpu(args: argparse.Namespace) -> dict[str, Any]:
    recipe, device = recipe_of(args), torch.device("cpu" if args.on_cpu else "cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    batch = batch_of(recipe, device)
    engines: dict[str, Callable[..., Any]] = {
        "bf16, as trained": functools.partial(make_engine, bf16=True, micro_batch=args.clips, world_size=1),
        "fp32, eager": functools.partial(make_bare_engine, bf16=False),
    }
    steps = {}
    for name, factory in engines.items():
        torch.manual_seed(0)
        model, judges = Speech2Video(recipe, IDENTITY, EMOTIONS).to(device), Adversaries(recipe, IDENTITY, len(EMOTIONS)).to(device)
        task = GanTask(recipe, model, judges, functools.partial(factory, grad_clip=recipe.parallel.grad_clip), device, 0, {})
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
    print(f"{args.clips} clips of {recipe.gan.frames} frames, {recipe.media.size} x {recipe.media.size}, recipe {recipe.name}")
    for name, seconds in medians.items():
        print(f"{name:18}{1000 * seconds:10.1f} ms a step")
    print(f"ratio of medians over {args.rounds} rounds: {trained / eager:.3f} (bar: at most 0.5)")
    ceilings = measure_ceilings(device, torch.bfloat16, 256 if args.on_cpu else 8192)
    with Counter(ceilings) as counted:
        for k in range(COUNTED_STEPS := 4):  # an interval of every discriminator
            steps["bf16, as trained"](k)
    flops, size, ideal, arithmetic = (x / COUNTED_STEPS for x in (counted.flops, counted.bytes, counted.seconds, counted.bound_by_arithmetic))
    print(f"ceilings measured: {ceilings[0] / 1e12:.1f} Tflop/s (bf16), {ceilings[1] / 1e9:.0f} GB/s")
    print(f"counted in a step: {flops / 1e12:.3f} Tflop, {size / 1e9:.2f} GB, {counted.calls / COUNTED_STEPS:.0f} operations")
    print(f"{'roofline':34}{1000 * ideal:10.1f} ms  {ideal / trained:7.1%} of the step")
    print(f"{'  bound by arithmetic':34}{1000 * arithmetic:10.1f} ms  {arithmetic / trained:7.1%}")
    print(f"{'  bound by memory':34}{1000 * (ideal - arithmetic):10.1f} ms  {(ideal - arithmetic) / trained:7.1%}")
    print(f"{'beyond: below ceilings, and gaps':34}{1000 * (trained - ideal):10.1f} ms  {(trained - ideal) / trained:7.1%}")
    for name, seconds in sorted(counted.by_operation.items(), key=lambda item: -item[1])[:8]:
        print(f"    {name:30}{1000 * seconds / COUNTED_STEPS:10.2f} ms of the roofline")
    return {"rounds": rounds, "medians": medians, "ratio": trained / eager, "ceilings": ceilings, "flops": flops, "bytes": size, "roofline": ideal / trained}


def batch_of(recipe: Recipe, device: torch.device) -> ClipBatch:
    config, size, rng = recipe.gan, recipe.media.size, torch.Generator().manual_seed(0)
    b, t, heard = config.batch, config.frames, config.heard_frames
    return ClipBatch(
        frames=torch.randint(0, 256, (b, t, size, size, 3), dtype=torch.uint8, generator=rng),
        speech=0.1 * torch.randn(b, heard * 640, generator=rng),
        start=torch.zeros(b, dtype=torch.long),
        heard=torch.ones(b, heard, dtype=torch.bool),
        still=torch.randint(0, 256, (b, size, size, 3), dtype=torch.uint8, generator=rng),
        identity=F.normalize(torch.randn(b, IDENTITY, generator=rng), dim=-1),
        emotion=torch.randn(b, heard, len(EMOTIONS), generator=rng),
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
    """Arithmetic and bytes of every operation, and the seconds that it takes at the ceilings at least. Views move nothing."""

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
        flops = float(flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)) if func.overloadpacket in flop_registry else 0.0
        size = float(sum(x.numel() * x.element_size() for x in read + written))
        arithmetic, memory = flops / self.ceilings[0], size / self.ceilings[1]
        self.flops, self.bytes, self.calls = self.flops + flops, self.bytes + size, self.calls + 1
        self.seconds += max(arithmetic, memory)
        self.bound_by_arithmetic += arithmetic if arithmetic > memory else 0.0
        self.by_operation[name] = self.by_operation.get(name, 0.0) + max(arithmetic, memory)
        return out


if __name__ == "__main__":
    sys.exit(main())
