"""Random search with whole runs against ASHA (with TPE, or over the same trials), at equal compute.

    python -m tests.bench.bench_tune CORPUS STUDENT OUT --recipe puppets --set gan.steps=300 --trials 6 --seeds 0 1 2

For each seed, random search gives TRIALS trials all their steps. TPE + ASHA gets three times as many trials; it is
judged by what it had found when it had spent as many steps. With ``--searcher random`` ASHA gets exactly random
search's trials: what it saves, and whether it keeps the best. Alarms end no trial here: a small recipe's sync network
is near chance, and what is compared is the search. Sweeps lie in OUT and are not run again: the command goes on where
it was cut off. Figures:

- best: the best value of the leading figure among finished trials, of both, at equal compute
- steps: share of random search's steps that ASHA had spent when it had found a value as good as random search's best
- idle: share of a sweep's wall time in which a free slot waited for its next trial
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2v_ray import storage
from s2v_ray.config import load_recipe
from s2v_ray.tuning.space import Space, better, load_space, parse_space, steps_of
from s2v_ray.tuning.sweep import run_sweep
from s2v_ray.tuning.trials import Sweep, Trial, open_sweep
from tests.helpers.results import write_result

SPACES = Path(__file__).parents[2] / "tune_spaces"


def history(trials: Sequence[Trial], metric: str) -> list[tuple[int, float]]:
    """Steps spent by all trials, and the best value among finished ones, after each validation in order of time."""
    sign = 1 if better(metric) == "lower" else -1
    points = sorted(
        (p["at"], t.number, p["step"], p[metric], t.state == "finished" and p is t.curve[-1])
        for t in trials
        for p in t.curve
        if metric in p
    )
    reached: dict[int, int] = {}
    best, found = math.inf, []
    for _, number, step, value, last in points:
        reached[number] = step
        best = min(best, sign * value) if last else best
        found.append((sum(reached.values()), sign * best))
    return found


def idle(trials: Sequence[Trial], slots: int) -> float:
    """Share of slot time without a trial, from the first start to the start of the last trial."""
    spans = sorted((start, end) for t in trials for start, end in t.spans)
    first, last = spans[0][0], max(start for start, _ in spans)
    busy = sum(max(0.0, min(end, last) - start) for start, end in spans)
    return 1 - busy / (slots * (last - first)) if last > first else 0.0


def sweep_of(args: argparse.Namespace, name: str, space: Space) -> Sweep:
    uri = storage.join(storage.absolute(args.out), name)
    run_sweep(
        uri,
        space,
        load_recipe(args.recipe, args.set),
        args.corpus,
        student=args.student,
        resume=True,
    )
    return open_sweep(uri)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("student", help="a student's bundle")
    parser.add_argument("out")
    parser.add_argument("--recipe", default="puppets")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--space", default=str(SPACES / "loss_weights.yaml"))
    parser.add_argument("--metric", default="mouth_l1", help="the one objective compared by")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument(
        "--searcher", choices=("tpe", "random"), default="tpe", help="ASHA's; random: the same trials as random search"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-concurrent", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe, args.set)
    base = load_space(args.space, recipe).model_dump(mode="json") | {
        "objectives": [args.metric],
        "metric": args.metric,
        "winner": {"rule": "ranks"},
        "stop_on": [],
    }
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        common = base | {"seed": seed, "max_concurrent": args.max_concurrent}
        random = parse_space(common | {"searcher": "random", "scheduler": "none", "trials": args.trials}, recipe)
        many = args.trials * (3 if args.searcher == "tpe" else 1)
        asha = parse_space(common | {"searcher": args.searcher, "scheduler": "asha", "trials": many}, recipe)
        plain, halved = sweep_of(args, f"random-{seed}", random).trials(), sweep_of(args, f"asha-{seed}", asha).trials()
        budget = args.trials * steps_of(random, recipe)
        theirs, ours = history(plain, args.metric)[-1][1], [h for h in history(halved, args.metric) if h[0] <= budget]
        sign = 1 if better(args.metric) == "lower" else -1
        as_good = [spent for spent, best in history(halved, args.metric) if sign * best <= sign * theirs]
        rows.append(
            {
                "seed": seed,
                "random": theirs,
                "asha": ours[-1][1] if ours else math.nan,
                "better": bool(ours) and sign * ours[-1][1] < sign * theirs,
                "steps": as_good[0] / budget if as_good else math.nan,
                "idle_random": idle(plain, args.max_concurrent),
                "idle_asha": idle(halved, args.max_concurrent),
            }
        )
    print(
        f"{'seed':>4}  {'random':>9}  {'ASHA':>9}  {'better':>6}  {'steps':>6}  {'idle':>12}   ({args.metric}, "
        f"{better(args.metric)} is better)"
    )
    for r in rows:
        better_here = "yes" if r["better"] else "no"
        print(
            f"{r['seed']:>4}  {r['random']:9.4f}  {r['asha']:9.4f}  {better_here:>6}  {r['steps']:6.2f}  "
            f"{r['idle_random']:5.1%} {r['idle_asha']:5.1%}"
        )
    print(f"median ratio ASHA / random: {statistics.median(r['asha'] / r['random'] for r in rows):.3f}")
    if args.json:
        write_result(args.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
