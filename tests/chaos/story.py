"""The whole chain on a cluster of three nodes, each step a submitted job, with one node killed and one drained.

    sudo .venv/bin/python -m tests.chaos.story

Needs root and iproute2 (see ``hosts.py``). A driver's node, one node for ingest and one for training, and an S3
server, each with an address of its own; jobs go over HTTP with a token. While ingest runs its node is drained with
20 s notice, then gone; while the GAN trains its node is killed. Each time a new node comes, as an autoscaler would
bring it. At the end all logs, job records and objects are searched for the secrets that the nodes were given. Exit
status 0 means that everything came out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np

from s2v_ray import storage
from s2v_ray.serving.deploy import SERVE_FILE
from tests.chaos.hosts import Host, Hosts, bucket

RECIPE = "debug"
SETTINGS = [
    "parallel.threads=1",
    "parallel.max_failures=5",
    "log.checkpoint_every=20",
    "log.log_every=5",
    "gan.steps=150",
]
NOTICE_SECONDS = 20
TRAINING = r"gan [3-9]\d/"
"""A line of losses after the first checkpoint."""
SERVE_PORT = 8000


class Story:
    """Steps in order, with the seconds each took."""

    def __init__(self, hosts: Hosts, root: str) -> None:
        self.hosts, self.root = hosts, root
        self.seconds: dict[str, float] = {}
        self.faults: list[str] = []
        self.submitted = self.struck = 0.0
        """Unix times: when the last job was submitted, and when what was waited for last showed in a log."""
        self.options = ["--recipe", RECIPE, *(w for s in SETTINGS for w in ("--set", s))]

    def at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def step(
        self, name: str, *command: str, recipe: bool = True, fault: tuple[str, Callable[[], None]] | None = None
    ) -> str:
        """Submits, waits, and gives the log. ``fault``: a pattern of the log, and what happens when it first shows."""
        began, self.submitted = time.monotonic(), time.time()
        log = self.hosts.folder / f"job-{name}.log"
        client = self.hosts.start_s2v(*command, *(self.options if recipe else []), log=log)
        if fault is not None:
            self._when(log, client, *fault)
        if client.wait() != 0:
            raise SystemExit(f"{name} failed:\n{log.read_text()[-4000:]}")
        self.seconds[name] = time.monotonic() - began
        say(f"{name}: {self.seconds[name]:.0f} s")
        return log.read_text()

    def _when(self, log: Path, client: subprocess.Popen[bytes], pattern: str, act: Callable[[], None]) -> None:
        while client.poll() is None:
            if re.search(pattern, log.read_text()):
                self.struck = time.time()
                act()
                return
            time.sleep(0.2)
        raise SystemExit(
            f"nothing was disturbed: the job ended before its log showed {pattern!r}\n{log.read_text()[-2000:]}"
        )

    def manners(self) -> None:
        """A job submitted twice runs once; a failed one exits with 1; a stopped one continues when submitted again."""
        twice = self.hosts.s2v("teach", self.at("corpus"), *self.options)
        if twice.returncode or "already" not in twice.stdout + twice.stderr:
            raise SystemExit(
                f"a second submission of a job that succeeded: status {twice.returncode}, "
                f"{twice.stdout[-1000:]}{twice.stderr[-1000:]}"
            )
        if self.hosts.s2v("teach", self.at("nowhere"), *self.options).returncode == 0:
            raise SystemExit("a job without a corpus ended with status 0")
        command = ("distill", self.at("corpus"), self.at("stopped"), *self.options, "--set", "distill.steps=200")
        log = self.hosts.folder / "job-stopped.log"
        client = self.hosts.start_s2v(*command, log=log)
        self._when(
            log,
            client,
            r"distill [4-9]\d/",
            lambda: self.hosts.stop_job(re.findall(r"submitted job (\S+)", log.read_text())[-1]),
        )
        if client.wait() == 0:
            raise SystemExit("a job that was stopped ended with status 0")
        again = self.hosts.s2v(*command, attempt=2)
        if again.returncode or "continues from the checkpoint" not in again.stdout:
            raise SystemExit(f"a stopped job did not go on: status {again.returncode}, {again.stdout[-2000:]}")
        say("submitted twice: ran once; failed: told by its status; stopped: went on from its checkpoint")

    def only(self, role: str) -> Host:
        (host,) = [h for h in self.hosts.hosts.values() if h.role == role]
        return host

    def drain_ingest(self) -> None:
        host = self.only("ingest")
        self.hosts.drain(host.name, NOTICE_SECONDS)
        threading.Timer(NOTICE_SECONDS, self.hosts.kill, [host.name]).start()
        self.hosts.add_worker("ingest")
        self.faults.append("ingest node drained, then gone")
        say(self.faults[-1])

    def kill_train(self) -> None:
        self.hosts.kill(self.only("train").name)
        self.faults.append("training node killed")
        say(self.faults[-1])
        self.hosts.add_worker("train")


def serve(story: Story) -> dict[str, Any]:
    """`serve deploy` with the file that stands beside the bundle, over HTTP; then speech in, video out."""
    hosts, began = story.hosts, time.monotonic()
    file = hosts.folder / SERVE_FILE
    file.write_bytes(storage.read_bytes(storage.join(story.at("best"), SERVE_FILE)))
    command = [str(Path(sys.executable).with_name("serve")), "deploy", str(file), "--address", hosts.jobs]
    done = subprocess.run(command, env=hosts.environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"serve deploy failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    url = f"http://{hosts.hosts['head'].address}:{SERVE_PORT}"
    with httpx.Client(timeout=120) as http:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if http.get(f"{url}/readyz").status_code == 200:
                    break
            if time.monotonic() - began > 240:
                raise SystemExit(
                    "the endpoint did not start: "
                    f"{json.dumps(hosts.get('/api/serve/applications/'), default=str)[-3000:]}"
                )
            time.sleep(1.0)
        answer = http.post(f"{url}/v1/videos/sync", files={"speech": ("speech.wav", tone(), "audio/wav")})
    if answer.status_code != 200:
        raise SystemExit(f"the endpoint answered {answer.status_code}: {answer.text[:500]}")
    story.seconds["serve"] = time.monotonic() - began
    return {"bytes": len(answer.content), "type": answer.headers["content-type"]}


def tone(seconds: float = 2.0) -> bytes:
    """A WAV file of a rising tone, 16 kHz."""
    t = np.arange(int(16000 * seconds)) / 16000
    samples = (8000 * np.sin(2 * np.pi * (150 + 100 * t) * t)).astype("<i2")
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.tobytes())
    return out.getvalue()


def first_step(story: Story, log: str) -> dict[str, float]:
    """Seconds from the submission of the training to its first line of losses, part by part."""
    jobs: Any = story.hosts.get("/api/jobs/")
    (taken,) = [j["start_time"] / 1000 for j in jobs if f"submitted job {j['submission_id']}" in log]

    def at(pattern: str) -> float:
        """Seconds of the driver's own clock."""
        found = re.search(rf"\[\s*([\d.]+) s\] {pattern}", log)
        assert found, f"no line {pattern}"
        return float(found[1])

    began = story.struck - at(TRAINING)  # when the driver's clock stood at 0, as far as the client's log tells
    up, ready, first = at(r"gan: \d+ workers? (is|are) up"), at("gan: networks"), at(r"gan \d+/")
    parts = {
        "the client packs and uploads, the cluster takes the job": taken - story.submitted,
        "the job's environment, its driver's imports": began - taken,
        "Ray Train's processes": up,
        "corpus and student read, networks and engines made": ready - up,
        "the first batches, the steps of the first line": first - ready,
        "all": began + first - story.submitted,
    }
    return {name: round(seconds, 1) for name, seconds in parts.items()}


def secrets_found(hosts: Hosts, root: str) -> list[str]:
    """Where one of the nodes' secrets lies that should not: logs of Ray and of the jobs, job records, objects on S3."""
    planted = [hosts.secret.encode(), hosts.token.encode()]
    found = [str(p) for p in hosts.folder.rglob("*") if p.is_file() and any(s in p.read_bytes() for s in planted)]
    if any(s in json.dumps(hosts.get("/api/jobs/")).encode() for s in planted):
        found.append("job records")
    fs, path = storage.filesystem(root)
    found += [name for name in fs.find(path) if any(s in fs.cat_file(name) for s in planted)]
    return found


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="PATH")
    args = parser.parse_args()
    began = time.monotonic()
    with Hosts(["ingest", "train"]) as hosts, bucket(hosts, "story") as root:
        say(
            f"{len(hosts.nodes())} nodes and an S3 server are up in {time.monotonic() - began:.0f} s; "
            f"logs in {hosts.folder}"
        )
        story = Story(hosts, root)
        at = story.at
        story.step("puppets", "puppets", at("videos"))
        story.step("ingest", "ingest", at("videos"), at("corpus"), fault=(r"files of layout", story.drain_ingest))
        story.step("teach", "teach", at("corpus"))
        story.step("distill", "distill", at("corpus"), at("student"))
        story.manners()
        log = story.step(
            "train",
            "train",
            at("corpus"),
            at("generator"),
            "--student",
            at("student"),
            fault=(TRAINING, story.kill_train),
        )
        parts = first_step(story, log)
        story.step(
            "tune", "tune", at("corpus"), at("sweep"), "--space", "tune_spaces/smoke.yaml", "--student", at("student")
        )
        story.step("evaluate", "evaluate", at("corpus"), at("report"), "--bundle", at("generator"))
        story.step("export", "export", "--best", at("sweep"), "-o", at("best"), "--host", "0.0.0.0", recipe=False)
        video = serve(story)
        leaked = secrets_found(hosts, root)
    result = {
        "seconds": {k: round(v, 1) for k, v in story.seconds.items()},
        "total_seconds": round(time.monotonic() - began, 1),
        "faults": story.faults,
        "to_the_first_training_line": parts,
        "video": video,
        "secrets_found_in": leaked,
    }
    print(json.dumps(result, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2))
    return int(bool(leaked))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
