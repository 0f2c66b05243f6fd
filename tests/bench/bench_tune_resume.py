"""Kills the driver and then a node of a sweep, resumes it, and counts repeated and lost trials.

    python -m tests.bench.bench_tune_resume CORPUS STUDENT OUT --recipe debug --trials 6 --kills 3

A trial is repeated where it had finished before a kill and started again after it; it is lost where it is missing from
the table at the end. The node is killed while the sweep runs, on a cluster of two nodes on this machine; the driver
goes on, or is resumed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from s2v_ray import storage
from s2v_ray.tuning.trials import Trial, open_sweep
from tests.helpers.results import write_result

POLL_SECONDS = 1.0


def start(args: argparse.Namespace, out: str, space: Path, address: str = "") -> subprocess.Popen[bytes]:
    words = [
        "tune",
        args.corpus,
        out,
        "--space",
        str(space),
        "--recipe",
        args.recipe,
        "--student",
        args.student,
        "--resume",
    ]
    words += [w for s in args.set for w in ("--set", s)]
    environment = (
        {**os.environ, "RAY_ADDRESS": address}
        if address
        else {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    )
    return subprocess.Popen([sys.executable, "-m", "s2v_ray", *words], env=environment, start_new_session=True)


def table(out: str) -> list[Trial]:
    return open_sweep(out).trials() if storage.exists(storage.join(out, storage.MANIFEST)) else []


def wait_for_change(process: subprocess.Popen[bytes], out: str, seen: int, limit: float) -> None:
    """Until the sweep has made ``seen`` more validations than it had, or ended."""
    began, before = time.monotonic(), sum(len(t.curve) for t in table(out))
    while (
        process.poll() is None
        and sum(len(t.curve) for t in table(out)) < before + seen
        and time.monotonic() - began < limit
    ):
        time.sleep(POLL_SECONDS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("student")
    parser.add_argument("out")
    parser.add_argument("--recipe", default="debug")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--kills", type=int, default=3, help="of the driver")
    parser.add_argument("--node", action="store_true", help="kill a node, too")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds to wait for a validation")
    parser.add_argument("--json")
    args = parser.parse_args()
    out, chance = storage.absolute(args.out), random.Random(0)
    Path(out).mkdir(parents=True, exist_ok=True)
    parameters = {"gan.lr": {"distribution": "loguniform", "low": 0.0001, "high": 0.01}}
    space = Path(out) / "space.yaml"
    plain = {"name": "kill", "objectives": ["mouth_l1"], "trials": args.trials, "validations": 3, "stop_on": []}
    space.write_text(yaml.safe_dump(plain | {"parameters": parameters}))
    sweep = storage.join(out, "sweep")
    ended: dict[int, int] = {}
    """Trial -> times it had started when it was first seen at its end."""

    def look() -> None:
        for t in table(sweep):
            if t.state != "running":
                ended.setdefault(t.number, len(t.spans))

    kills = 0
    for _ in range(args.kills):
        process = start(args, sweep, space)
        wait_for_change(process, sweep, chance.randint(1, 3), args.limit)
        time.sleep(chance.uniform(0.0, 5.0))
        if process.poll() is not None:
            break
        look()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    nodes = 0
    if args.node and len(ended) < args.trials:
        import ray
        from ray.cluster_utils import Cluster

        cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        victim = [cluster.add_node(num_cpus=2), cluster.add_node(num_cpus=2)][0]
        process = start(args, sweep, space, cluster.address)
        wait_for_change(process, sweep, 1, args.limit)
        look()
        cluster.remove_node(victim, allow_graceful=False)
        nodes = 1
        code = process.wait()
        ray.shutdown()
        cluster.shutdown()
    else:
        code = start(args, sweep, space).wait()
    trials = table(sweep)
    result = {
        "driver_kills": kills,
        "node_kills": nodes,
        "finished_before_a_kill": len(ended),
        "repeated": sum(len(t.spans) > ended[t.number] for t in trials if t.number in ended),
        "lost": len(set(range(args.trials)) - {t.number for t in trials if t.state == "finished"}),
        "exit": code,
    }
    print("  ".join(f"{k} {v}" for k, v in result.items()))
    if args.json:
        write_result(args.json, result)
    return 0 if result["repeated"] == result["lost"] == code == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
