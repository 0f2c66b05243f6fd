"""Training speed that `s2v plan` predicts for 1, 2 and 4 workers from runs of one, compared with measured runs.

    python -m tests.bench.bench_plan CORPUS STUDENT OUT [--rounds 3]

Workers compute with one thread each and share the machine's CPUs; the batch of a worker is constant. Each round
trains with 1, 2 and 4 workers in turn; speeds are medians over rounds. The number of workers that uses all CPUs of
this machine (``Measurement.full_at``) is predicted from

- the number of CPUs that were busy in the run of one worker: its thread, and the work of Ray, decoding and S3 for it.
  Each further worker adds as much;
- the speed of all CPUs relative to one, since they share caches and memory: steps of a generator in plain torch, in one
  process and in one process per CPU. A factor above the number of CPUs is treated as noise;
- the bandwidth of an all-reduce of the gradients between these processes (gloo), in place of that between GPUs.

Bar: within 15%.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from s2v_ray import config
from s2v_ray.cluster import planning
from s2v_ray.cluster.manifests import Group
from s2v_ray.training.launch import MALLOC, launch
from s2v_ray.training.runs import RunSpec
from tests.helpers.results import write_result

WORKERS = (1, 2, 4)
CLIPS = 12
"""Clips a worker and step."""
PROBE_SECONDS, PROBE_ROUNDS, REDUCTIONS = 4.0, 5, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?")
    parser.add_argument("student", nargs="?")
    parser.add_argument("out", nargs="?", help="folder for the runs; those that are there are read, not repeated")
    parser.add_argument("--recipe", default="puppets")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.probe:
        probe(config.load_recipe(args.recipe))
        return
    if args.out is None:
        parser.error("give CORPUS, STUDENT and OUT")
    cpus = os.cpu_count() or 1
    faster, bandwidth = machine(args.recipe, cpus)
    print(
        f"{cpus} CPUs are {faster:.2f} times as fast as one; "
        f"an all-reduce between them moves {bandwidth / 1e6:.0f} MB/s"
    )
    runs: dict[int, list[planning.Measurement]] = {n: [] for n in WORKERS}
    for k in range(args.rounds):
        for n in WORKERS:
            runs[n].append(run(args, n, k))
    measured = {
        n: dataclasses.replace(found[0], clips_per_second=statistics.median(m.clips_per_second for m in found))
        for n, found in runs.items()
    }
    busy = statistics.median(json.loads(busy_file(args, 1, k).read_text()) for k in range(args.rounds))
    one = dataclasses.replace(measured[1], full_at=min(faster, cpus) / busy)
    print(f"one worker kept {busy:.2f} CPUs busy: {one.full_at:.2f} of them fill the machine")
    print(f"{'workers':>8} {'predicted':>10} {'measured':>9} {'error':>7}   clips/s, medians of {args.rounds} rounds")
    compared = planning.compare(inputs_of(recipe_of(args, 1), one, bandwidth), [measured[n] for n in WORKERS])
    rows = [dataclasses.asdict(row) for row in compared]
    for row in rows:
        print(f"{row['workers']:>8} {row['predicted']:>10.2f} {row['measured']:>9.2f} {row['error']:>+7.1%}")
    if args.json:
        seen = {n: [m.clips_per_second for m in found] for n, found in runs.items()}
        figures = {"cpus": cpus, "speedup": faster, "all_reduce": bandwidth, "busy": busy}
        write_result(args.json, {**figures, "runs": seen, "rows": rows})


# ---- the machine


def machine(recipe: str, cpus: int) -> tuple[float, float]:
    """Steps per second of one process per CPU relative to one process, and bytes/s of their all-reduce; medians."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = (
        os.environ
        | MALLOC
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    )
    command = [sys.executable, __file__, "--probe", "--recipe", recipe]
    started = [environment | {"RANK": str(rank), "WORLD_SIZE": str(cpus)} for rank in range(cpus)]
    probes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=e) for e in started
    ]

    def ask(what: str, chosen: list[subprocess.Popen[str]]) -> float:
        for p in chosen:
            assert p.stdin
            print(what, file=p.stdin, flush=True)
        return sum(float(p.stdout.readline()) for p in chosen if p.stdout)

    ask("step", probes)  # warms up
    faster = statistics.median(ask("step", probes) / ask("step", probes[:1]) for _ in range(PROBE_ROUNDS))
    bandwidth = statistics.median(ask("reduce", probes) / cpus for _ in range(PROBE_ROUNDS))
    for p in probes:
        p.communicate()
    return faster, bandwidth


def probe(recipe: config.Recipe) -> None:
    """Runs one task per line of stdin and prints its speed.

    "step" trains a generator with one thread; steps per second. "reduce" averages its gradients with the other
    processes; bytes/s of a ring (``planning.ring_seconds``) that takes the same time.
    """
    import torch
    import torch.distributed as dist

    from s2v_ray.models.speech2video import Speech2Video, TrainingInputs
    from s2v_ray.training.data.decode import REFERENCES

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    heard, window, side = recipe.gan.speech_frames, recipe.gan.frames, recipe.media.size
    model, config = Speech2Video(recipe, 256, ("neutral", "happy")), recipe.gan.generator
    inputs = TrainingInputs(
        speech=torch.randn(CLIPS, heard * 640),
        speech_mask=torch.ones(CLIPS, heard, dtype=torch.bool),
        index=torch.arange(window).expand(CLIPS, -1),
        frames=torch.zeros(CLIPS, window, 3, side, side),
        references=torch.zeros(CLIPS, REFERENCES, 3, side, side),
        sampled=torch.zeros(CLIPS, dtype=torch.bool),
        white_take=torch.zeros(CLIPS, config.take_dim),
        white_motion=torch.zeros(CLIPS, window, config.motion_dim),
        noise=torch.zeros(CLIPS, window, 1, side, side),
    )
    gradients = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))
    for line in sys.stdin:
        began = time.monotonic()
        if line.strip() == "reduce":
            for _ in range(REDUCTIONS):
                dist.all_reduce(gradients)
            alone = planning.ring_seconds(4 * gradients.numel(), dist.get_world_size(), 1.0, 0.0)
            print(REDUCTIONS * alone / (time.monotonic() - began), flush=True)
            continue
        done = 0
        while time.monotonic() - began < PROBE_SECONDS:
            model(inputs).frames.square().mean().backward()
            done += 1
        print(done / (time.monotonic() - began), flush=True)


# ---- runs


def recipe_of(args: argparse.Namespace, workers: int) -> config.Recipe:
    every = max(1, args.steps // 6)
    settings = [
        f"gan.steps={args.steps}",
        f"gan.batch={CLIPS * workers}",
        f"parallel.workers={workers}",
        "parallel.threads=1",
        f"log.log_every={every}",
        f"log.checkpoint_every={args.steps}",
        *(f"gan.discriminators.{name}.start=0" for name in ("frame", "mouth", "sync", "emotion")),
    ]
    return config.load_recipe(args.recipe, settings)


def run(args: argparse.Namespace, workers: int, round_: int) -> planning.Measurement:
    uri = f"{args.out}/workers-{workers}-{round_}"
    seen: list[tuple[float, float]] = []

    def look(record: dict[str, Any]) -> bool:
        user, nice, system, _, _, irq, soft_irq, *_ = (int(x) for x in Path("/proc/stat").read_text().split()[1:9])
        seen.append((time.monotonic(), (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")))
        return True

    launch(RunSpec("gan", recipe_of(args, workers), args.corpus, uri, args.student), on_record=look)
    if len(seen) > 2:  # not where a finished run was found; the first record holds the start
        (start, before), (end, after) = seen[0], seen[-1]
        busy_file(args, workers, round_).write_text(json.dumps((after - before) / (end - start)))
    return planning.read_measurement(uri)


def busy_file(args: argparse.Namespace, workers: int, round_: int) -> Path:
    """How many CPUs the machine kept busy on average, from the run's first record to its last."""
    return Path(args.out, f"busy-{workers}-{round_}.json")


def inputs_of(recipe: config.Recipe, measured: planning.Measurement, bandwidth: float) -> planning.PlanInputs:
    """All workers on one node, this machine; nothing but the step's time is asked for."""
    assumed = planning.Assumptions(node_bandwidth=bandwidth)
    group = Group("train", "train", os.cpu_count() or 1, 0, 24, False, "", "here", spot=False)
    engines = planning.count_parameters(recipe)
    return planning.PlanInputs(
        recipe,
        measured,
        planning.CorpusSize(1, 1.0, 1.0),
        group,
        planning.Price(0.0, 0.0, 1e10),
        0.0,
        0.0,
        engines,
        assumed,
    )


if __name__ == "__main__":
    main()
