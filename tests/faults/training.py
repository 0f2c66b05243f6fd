"""Kills and drains what a distillation runs on, and compares what comes out with an undisturbed run.

    .venv/bin/python -m tests.faults.training [--only FAULT]

Faults: worker (SIGKILL of one of two), workers (of both), driver (of `launch` and all it started, then the same again),
drain (the node of one of two elastic workers is drained with notice, and goes), node (the same node is killed without
notice). Of the first three every logged loss and every weight must equal the undisturbed run's to the last digit; after
the last two the run must go on with one worker, after the drain from the checkpoint that the notice made, and end. Exit
status 1 where one does not. Only processes that this script started are killed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from s2v_ray import logs, storage
from s2v_ray.config import load_recipe
from s2v_ray.models.bundle import load_bundle
from s2v_ray.models.teachers import ConvFace, save_conv
from tests.helpers.tiny_corpus import EMOTIONS, make_corpus

STEPS, EVERY, STRIKE_AT = 300, 20, 60  # enough to strike while it runs: lines come some tenths of a second late
NODE_STEPS, NOTICE_SECONDS = 1500, 10
SETTINGS = [
    f"distill.steps={STEPS}",
    "distill.batch=4",
    "log.log_every=10",
    f"log.checkpoint_every={EVERY}",
    "parallel.threads=1",
    "parallel.workers=2",
]


class CallHandler(logging.Handler):
    """Passes every message to a function."""

    def __init__(self, function: Callable[[str], None]) -> None:
        super().__init__()
        self.function = function

    def emit(self, record: logging.LogRecord) -> None:
        self.function(record.getMessage())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*FAULTS, *NODE_FAULTS])
    parser.add_argument("--launch", nargs=2, metavar=("CORPUS", "RUN"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.launch:
        from s2v_ray.training.launch import launch
        from s2v_ray.training.runs import RunSpec

        with logs.installed(CallHandler(lambda line: print(line, flush=True))):
            launch(RunSpec("distill", load_recipe("debug", SETTINGS), *options.launch))
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare(folder)
        chosen = [options.only] if options.only else [*FAULTS, *NODE_FAULTS]
        if chosen[0] in FAULTS:
            expected = Attempt(corpus, f"{folder}/undisturbed").finish().outcome()
        for name in chosen:
            began = time.monotonic()
            run = f"{folder}/{name}"
            wrong = (
                lose_node(corpus, run, notice=name == "drain")
                if name in NODE_FAULTS
                else struck(FAULTS[name], corpus, run, expected)
            )
            print(f"{name}: {wrong or 'nothing lost'} ({time.monotonic() - began:.0f} s)", flush=True)
            failed += bool(wrong)
    return int(failed > 0)


def prepare(folder: str) -> str:
    corpus, common = (
        make_corpus(f"{folder}/corpus", clips=24),
        {"height": 32, "width": 32, "alignment": "box", "channels": 4},
    )
    torch.manual_seed(0)
    save_conv(storage.join(corpus, "teachers", "identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    save_conv(
        storage.join(corpus, "teachers", "emotion"), ConvFace(4, 3), role="emotion", dim=3, labels=EMOTIONS, **common
    )
    return corpus


class Attempt:
    """A process that launches the run, and the lines it says."""

    def __init__(self, corpus: str, run: str) -> None:
        self.run, self.lines = run, list[str]()
        command = [sys.executable, __file__, "--launch", corpus, run]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2])),
        )

    def until(self, said: Callable[[str], bool]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            print("   ", line.rstrip(), flush=True)
            if said(line):
                return

    def finish(self) -> Attempt:
        self.until(lambda line: False)
        if self.process.wait() != 0:
            raise SystemExit(f"{self.run}: ended with status {self.process.returncode}")
        return self

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Those that it started, directly or not, and that live; with ``name`` in their command line."""
        found = []
        for p in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # ended, or a zombie
                found += [p] if name in " ".join(p.cmdline()) else []
        return found

    def outcome(self) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
        """Loss of each logged step, and the weights of the bundle."""
        records = [json.loads(line) for line in Path(self.run, "metrics.jsonl").read_text().splitlines()]
        return {r["step"]: r["loss"] for r in records if "loss" in r}, load_bundle(f"{self.run}/bundle", "student")[
            0
        ].state_dict()


def worker(attempt: Attempt) -> None:
    attempt.processes("RayTrainWorker")[0].send_signal(signal.SIGKILL)


def workers(attempt: Attempt) -> None:
    for process in attempt.processes("RayTrainWorker"):
        process.send_signal(signal.SIGKILL)


def driver(attempt: Attempt) -> None:
    family = [psutil.Process(attempt.process.pid), *attempt.processes()]
    for process in family:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)


FAULTS = {"worker": worker, "workers": workers, "driver": driver}
NODE_FAULTS = ("drain", "node")


def struck(
    strike: Callable[[Attempt], None], corpus: str, run: str, expected: tuple[dict[int, float], dict[str, Any]]
) -> str:
    """What differs from the undisturbed run, or ""."""
    attempt = Attempt(corpus, run)
    attempt.until(lambda line: f" {STRIKE_AT}/{STEPS} " in line)
    strike(attempt)
    if strike is driver:
        attempt.until(lambda line: False)
        attempt = Attempt(corpus, run)
    attempt.finish()
    if not any("continues from the checkpoint" in line for line in attempt.lines):
        return "it did not continue from a checkpoint"
    losses, weights = attempt.outcome()
    if losses != expected[0]:
        return (
            f"losses differ: {[(s, losses.get(s), loss) for s, loss in expected[0].items() if losses.get(s) != loss]}"
        )
    return "" if all(torch.equal(weights[name], value) for name, value in expected[1].items()) else "weights differ"


def lose_node(corpus: str, run: str, *, notice: bool) -> str:
    """Two elastic workers on a node each; one node is killed, with ``notice`` after it was drained.

    Needs one cluster in this process.
    """
    import ray
    from ray.cluster_utils import Cluster

    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    # a worker takes two CPUs: no node holds both workers, and the head holds one worker and the decoding of its clips
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    second = cluster.add_node(num_cpus=2)
    raylet = second.all_processes["raylet"][0].process
    ray.init(address=cluster.address, log_to_driver=False)
    lines: list[str] = []
    timers: list[threading.Timer] = []

    def progress(line: str) -> None:
        lines.append(line)
        print("   ", line, flush=True)
        if f" {STRIKE_AT}/{NODE_STEPS} " in line and not timers:
            if notice:
                command = [
                    str(Path(sys.executable).with_name("ray")),
                    "drain-node",
                    "--address",
                    cluster.address,
                    "--node-id",
                    second.node_id,
                ]
                reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
                subprocess.Popen(
                    [*command, *reason, "--deadline-remaining-seconds", str(NOTICE_SECONDS)], stdout=subprocess.DEVNULL
                )
            timers.append(threading.Timer(NOTICE_SECONDS if notice else 0.0, raylet.kill))
            timers[0].start()

    try:
        every = NODE_STEPS if notice else EVERY
        changes = [
            f"distill.steps={NODE_STEPS}",
            "parallel.min_workers=1",
            "parallel.cpus_per_worker=2",
            f"log.checkpoint_every={every}",
        ]
        with logs.installed(CallHandler(progress)):
            result = launch(RunSpec("distill", load_recipe("debug", [*SETTINGS, *changes]), corpus, run))
    finally:
        for timer in timers:
            timer.join()
        ray.shutdown()
        cluster.shutdown()
    if notice and not any("a checkpoint is taken at step" in line for line in lines):
        return "the notice made no checkpoint"
    if not any("continues from the checkpoint" in line for line in lines):
        return "it did not continue from a checkpoint"
    return "" if result["steps"] == NODE_STEPS else f"it ended at step {result['steps']}"


if __name__ == "__main__":
    sys.exit(main())
