"""Injects faults every few seconds while a cluster ingests, distills, trains and tunes, and compares the results.

    sudo .venv/bin/python -m tests.chaos.chaos --minutes 30 --every 40

Needs root and iproute2 (see ``hosts.py``). The same jobs run twice, on ``s3://``: first undisturbed, then under
faults. A job that fails is submitted again, as a person would; nothing else is helped along. Exit status 0 means
that nothing was lost: the corpora are equal byte for byte, the losses of every logged step and the validation are
equal to the last digit (so every step saw its clips, once), the step counts are the recipe's, the bundles hold the
same weights, and the sweeps tried the same values with the same ends, steps and figures, none of them again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos.hosts import Host, Hosts, bucket

SETTINGS = [
    "parallel.threads=1",
    "parallel.max_failures=100",
    "log.checkpoint_every=20",
    "log.log_every=10",
    "distill.steps=120",
    "gan.steps=200",
]
SPACE = "tune_spaces/smoke.yaml"
TIMES = ("clips_per_second", "data_wait", "seconds_left")
CUT_SECONDS, PAUSE_SECONDS, RETURN_SECONDS = 20.0, 10.0, 8.0


class Jobs:
    """The chain as jobs, each submitted until it succeeds."""

    def __init__(self, hosts: Hosts, videos: str, root: str, recipe: str, settings: list[str]) -> None:
        self.hosts, self.videos, self.root = hosts, videos, root
        self.options = ["--recipe", recipe, *(w for s in settings for w in ("--set", s))]
        self.attempts: Counter[str] = Counter()
        self.seconds: dict[str, float] = {}

    def run(self) -> None:
        self._until_done("ingest", self.videos, f"{self.root}/corpus")
        self._until_done("teach", f"{self.root}/corpus")
        self._until_done("distill", f"{self.root}/corpus", f"{self.root}/student")
        heard = ("--student", f"{self.root}/student")
        self._until_done("train", f"{self.root}/corpus", f"{self.root}/generator", *heard)
        self._until_done("tune", f"{self.root}/corpus", f"{self.root}/sweep", "--space", SPACE, "--resume", *heard)

    def log(self, command: str) -> Path:
        return self.hosts.folder / f"job-{self.root.rsplit('/', 1)[1]}-{command}.log"

    def _until_done(self, *command: str) -> None:
        began = time.monotonic()
        while True:
            self.attempts[command[0]] += 1
            log = self.log(command[0])
            client = self.hosts.start_s2v(*command, *self.options, attempt=self.attempts[command[0]], log=log)
            if client.wait() == 0:
                break
            say(f"{command[0]} failed (see {log}): submitted again")
            if self.attempts[command[0]] > 50:
                raise SystemExit(f"{command[0]} never succeeds: see {log}")
        self.seconds[command[0]] = time.monotonic() - began


class Faults:
    """What can happen, and the repair that an autoscaler or a person would bring."""

    def __init__(self, hosts: Hosts, seed: int) -> None:
        self.hosts, self.random = hosts, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.missed = 0
        self.kinds: list[Callable[[], bool]] = [self.worker, self.raylet, self.host, self.driver, self.s3, self.network]

    def strike(self) -> None:
        """One fault, of the kinds in turn, each round in another order."""
        if not (left := getattr(self, "_round", [])):
            left = self._round = self.random.sample(self.kinds, len(self.kinds))
        kind = left.pop()
        if kind():
            self.done[kind.__name__] += 1
            say(f"fault {sum(self.done.values())}: {kind.__name__}")
        else:
            self.missed += 1

    def worker(self) -> bool:
        """SIGKILL of one process that computes."""
        return self._kill_one(("ray::RayTrainWorker", "ray::FlatMap", "ray::Map", "ray::MapBatches"), self._workers())

    def raylet(self) -> bool:
        """SIGKILL of a node's raylet: the rest of the node follows it; a new node comes."""
        host = self.random.choice(self._workers())
        if not self._kill_one(("raylet/raylet",), [host]):
            return False
        self._replace(host)
        return True

    def host(self) -> bool:
        """Every process of a node at once; a new node comes."""
        self._replace(self.random.choice(self._workers()))
        return True

    def driver(self) -> bool:
        """SIGKILL of the job's driver on the head; the job fails and is submitted again."""
        return self._kill_one(
            ("python -m s2v_ray",), [self.hosts.hosts["head"]], but="sh -c"
        )  # without its shell it would live on, beside the next one

    def s3(self) -> bool:
        """The S3 server stops answering for a while."""
        self.hosts.pause("s3", stop=True)
        time.sleep(PAUSE_SECONDS)
        self.hosts.pause("s3", stop=False)
        return True

    def network(self) -> bool:
        """A node is cut off for 20 s. If Ray has given it up by then, a new node comes."""
        host = self.random.choice(self._workers())
        self.hosts.cut(host.name)
        time.sleep(CUT_SECONDS)
        self.hosts.repair(host.name)
        time.sleep(RETURN_SECONDS)
        if host.processes[-1].poll() is not None:
            self._replace(host)
        return True

    def _workers(self) -> list[Host]:
        return [h for h in self.hosts.hosts.values() if h.role not in ("driver", "s3")]

    def _replace(self, host: Host) -> None:
        self.hosts.kill(host.name)
        self.hosts.add_worker(host.role)

    def _kill_one(self, words: tuple[str, ...], hosts: list[Host], but: str | None = None) -> bool:
        running = {pid: _command(pid) for host in hosts for pid in host.pids()}
        found = [
            pid
            for pid, command in running.items()
            if any(word in command for word in words) and not (but and but in command)
        ]
        if not found:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.random.choice(found), signal.SIGKILL)
            return True
        return False


def compare(a: str, b: str) -> dict[str, Any]:
    """What differs between two roots; every list empty and every count equal where nothing was lost."""
    from s2v_ray import storage
    from s2v_ray.tuning.trials import Trial, open_sweep

    def shards_of(root: str) -> dict[str, str]:
        fs, path = storage.filesystem(f"{root}/corpus")
        names = [n for n in fs.find(path) if n.endswith((".parquet", ".safetensors"))]
        return {n[len(path) :]: hashlib.sha256(fs.cat_file(n)).hexdigest() for n in names}

    def records(root: str, run: str) -> list[dict[str, Any]]:
        lines = storage.read_bytes(f"{root}/{run}/metrics.jsonl").decode().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in TIMES and k != "alarms"} for line in lines]

    def weights(root: str, run: str) -> str:
        from s2v_ray.models.bundle import read_card

        return str(read_card(f"{root}/{run}/bundle")["weights"]["sha256"])

    def trials(root: str) -> list[Trial]:
        return open_sweep(f"{root}/sweep").trials()

    def shown(trial: Trial) -> tuple[object, ...]:
        return trial.params, trial.state, trial.steps(), trial.scores()

    one, two = shards_of(a), shards_of(b)
    found: dict[str, Any] = {
        "shards": len(one),
        "shards that differ": sorted(n for n in one.keys() | two.keys() if one.get(n) != two.get(n)),
    }
    for run in ("student", "generator"):
        left, right = records(a, run), records(b, run)
        found[f"{run}: last step"] = [left[-1]["step"], right[-1]["step"]]
        found[f"{run}: records"] = [len(left), len(right)]
        found[f"{run}: steps whose losses differ"] = [x["step"] for x, y in zip(left, right, strict=False) if x != y]
        found[f"{run}: same weights"] = weights(a, run) == weights(b, run)
    tried, wild = trials(a), {t.number: t for t in trials(b)}
    found["sweep: trials"] = [len(tried), len(wild)]
    found["sweep: trials that differ"] = [
        t.number for t in tried if t.number not in wild or shown(t) != shown(wild[t.number])
    ]
    return found


def repeated(log: str) -> list[int]:
    """Trials that a sweep's log names as starting again after their end."""
    ended: set[str] = set()
    again: set[int] = set()
    for number, what in re.findall(r"trial (\d+) (starts|finished|stopped|failed)", log):
        if what != "starts":
            ended.add(number)
        elif number in ended:
            again.add(int(number))
    return sorted(again)


def nothing_lost(found: dict[str, Any]) -> bool:
    runs = all(
        found[f"{r}: last step"][0] == found[f"{r}: last step"][1]
        and found[f"{r}: records"][0] == found[f"{r}: records"][1]
        and not found[f"{r}: steps whose losses differ"]
        and found[f"{r}: same weights"]
        for r in ("student", "generator")
    )
    lists = ("shards that differ", "sweep: trials that differ", "sweep: trials repeated")
    return (
        runs
        and found["shards"] > 0
        and found["sweep: trials"][0] == found["sweep: trials"][1]
        and not any(found[name] for name in lists)
    )


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="faults come for so long, or until the jobs are done"
    )
    parser.add_argument("--every", type=float, default=40.0, metavar="SECONDS")
    parser.add_argument("--recipe", default="debug")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="on top of the script's own")
    parser.add_argument("--workers", nargs="+", default=["ingest", "train"], help="role of each worker node")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    settings = [*SETTINGS, *args.set]
    with Hosts(args.workers) as hosts, bucket(hosts) as root:
        say(f"{len(hosts.nodes())} nodes and an S3 server are up; logs in {hosts.folder}")
        videos = f"{root}/videos"
        done = hosts.s2v("puppets", videos, "--recipe", args.recipe)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        calm, wild = (
            Jobs(hosts, videos, f"{root}/calm", args.recipe, settings),
            Jobs(hosts, videos, f"{root}/wild", args.recipe, settings),
        )
        calm.run()
        say(f"undisturbed: {sum(calm.seconds.values()):.0f} s; now with faults")
        faults, jobs = Faults(hosts, args.seed), threading.Thread(target=wild.run)
        end, strike = time.monotonic() + 60 * args.minutes, time.monotonic() + args.every
        jobs.start()
        while jobs.is_alive():
            jobs.join(1.0)
            if strike < time.monotonic() < end and jobs.is_alive():
                faults.strike()
                strike = time.monotonic() + args.every
        found = compare(f"{root}/calm", f"{root}/wild")
        found["sweep: trials repeated"] = repeated(wild.log("tune").read_text())
    lost = not nothing_lost(found)
    result = {
        "faults": dict(faults.done),
        "fault_count": sum(faults.done.values()),
        "resubmitted": {k: v - 1 for k, v in wild.attempts.items()},
        "seconds_undisturbed": round(sum(calm.seconds.values()), 1),
        "seconds_with_faults": round(sum(wild.seconds.values()), 1),
        "compared": found,
        "nothing_lost": not lost,
    }
    print(json.dumps(result, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2))
    return int(lost)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
