"""Training speed that `s2v plan` predicts for 1, 2 and 4 workers, from a run of one, beside what they do on this machine.

    python tests/bench/bench_plan.py CORPUS STUDENT OUT

Workers compute with one thread each and share the machine's CPUs; each keeps its batch as they become more. Bar: within 15%.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
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
    one = dataclasses.replace(measured[1], full_at=cpus)
    print(f"{'workers':>8} {'predicted':>10} {'measured':>9} {'error':>7}   clips/s")
    rows: list[dict[str, Any]] = planning.compare(setup_of(recipe_of(args, 1), one), [measured[n] for n in WORKERS])
    for row in rows:
        print(f"{row['workers']:>8} {row['predicted']:>10.2f} {row['measured']:>9.2f} {row['error']:>+7.1%}")
    if args.json:
        Path(args.json).write_text(json.dumps({"cpus": cpus, "rows": rows}, indent=2))


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
    launch("gan", recipe_of(args, workers), args.corpus, uri, student=args.student)
    return planning.read_measured(uri)


def setup_of(recipe: config.Recipe, measured: planning.Measured) -> planning.Setup:
    """All workers on one node, this machine; nothing but the step's time is asked for."""
    group = Group("train", "train", os.cpu_count() or 1, 0, 24, False, "", "here", spot=False)
    engines = planning.engines_of(recipe)
    return planning.Setup(recipe, measured, planning.CorpusSize(1, 1.0, 1.0), group, planning.Price(0.0, 0.0, 1e10), 0.0, 0.0, engines)


if __name__ == "__main__":
    main()
