"""Training speed that `s2v plan` predicts for 1, 2 and 4 workers, from a run of one, beside what they do on this machine.

    python tests/bench/bench_plan.py CORPUS STUDENT OUT

Workers compute with one thread each and share the machine's CPUs; each keeps its batch as they become more. How many of them keep the machine busy
is taken from the run of one, too: its CPUs over those that were busy then, Ray Data's decoding included. Bar: within 15%.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

from s2v_ray import config, planning
from s2v_ray.cluster.manifests import Group
from s2v_ray.training.launch import launch

WORKERS = (1, 2, 4)
CLIPS = 12
"""Clips a worker and step."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("student")
    parser.add_argument("out", help="folder for the runs; those that are there are read, not repeated")
    parser.add_argument("--recipe", default="puppets")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    measured = {n: run(args, n) for n in WORKERS}
    cpus = os.cpu_count() or 1
    busy = json.loads(busy_file(args, 1).read_text())
    one = dataclasses.replace(measured[1], full_at=cpus / busy)
    print(f"one worker kept {busy:.2f} of {cpus} CPUs busy")
    print(f"{'workers':>8} {'predicted':>10} {'measured':>9} {'error':>7}   clips/s")
    rows: list[dict[str, Any]] = planning.compare(setup_of(recipe_of(args, 1), one), [measured[n] for n in WORKERS])
    for row in rows:
        print(f"{row['workers']:>8} {row['predicted']:>10.2f} {row['measured']:>9.2f} {row['error']:>+7.1%}")
    if args.json:
        Path(args.json).write_text(json.dumps({"cpus": cpus, "busy": busy, "rows": rows}, indent=2))


def recipe_of(args: argparse.Namespace, workers: int) -> config.Recipe:
    every = max(1, args.steps // 6)
    settings = [
        f"gan.steps={args.steps}",
        f"gan.batch={CLIPS * workers}",
        f"parallel.workers={workers}",
        "parallel.threads=1",
        f"log.log_every={every}",
        f"log.checkpoint_every={args.steps}",
        *(f"gan.discriminators.{name}.start=0" for name in ("frame", "sequence", "sync", "emotion")),
    ]
    return config.load_recipe(args.recipe, settings)


def run(args: argparse.Namespace, workers: int) -> planning.Measured:
    uri = f"{args.out}/workers-{workers}"
    seen: list[tuple[float, float]] = []

    def look(record: dict[str, Any]) -> bool:
        user, nice, system, _, _, irq, soft_irq, *_ = (int(x) for x in Path("/proc/stat").read_text().split()[1:9])
        seen.append((time.monotonic(), (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")))
        return True

    launch("gan", recipe_of(args, workers), args.corpus, uri, student=args.student, record=look)
    if len(seen) > 2:  # not where a finished run was found; the first record holds the start
        (start, before), (end, after) = seen[0], seen[-1]
        busy_file(args, workers).write_text(json.dumps((after - before) / (end - start)))
    return planning.read_measured(uri)


def busy_file(args: argparse.Namespace, workers: int) -> Path:
    """How many CPUs the machine kept busy on average, from the run's first record to its last."""
    return Path(args.out, f"busy-{workers}.json")


def setup_of(recipe: config.Recipe, measured: planning.Measured) -> planning.Setup:
    """All workers on one node, this machine; nothing but the step's time is asked for."""
    group = Group("train", "train", os.cpu_count() or 1, 0, 24, False, "", "here", spot=False)
    engines = planning.engines_of(recipe)
    return planning.Setup(recipe, measured, planning.CorpusSize(1, 1.0, 1.0), group, planning.Price(0.0, 0.0, 1e10), 0.0, 0.0, engines)


if __name__ == "__main__":
    main()
