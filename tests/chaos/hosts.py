"""Hosts of a small Ray cluster on one Linux machine, each a network namespace with its address, and an S3 server.

Needs root and ``ip`` (iproute2). A host that is killed loses every process at once; a host that is cut off keeps
them and loses the network. Each has a folder of its own for Ray's files (a node removes a job's code when it is
done with it). The rest of the file system is
shared, which nothing here relies on: corpora and runs go to ``s3://``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.helpers import network

ROOT = Path(__file__).parents[2]
BRIDGE, BRIDGE_MAC, NET = "s2vchaos", "02:53:32:56:00:fe", "10.77.0"
RAY_PORT, DASHBOARD_PORT, S3_PORT = 6379, 8265, 9000
RAY_FILES = "/tmp/ray"
STARTUP_SECONDS, ATTEMPTS = 120.0, 3
KEYS = {"AWS_ACCESS_KEY_ID": "chaos", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


class HostsError(RuntimeError):
    """The machine cannot provide these hosts, or one of them did not start; the message says why."""


@dataclass
class Host:
    """A namespace, its address, and what runs in it."""

    name: str
    number: int
    role: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{NET}.{self.number}"

    @property
    def namespace(self) -> str:
        return f"s2v-{self.name}"

    @property
    def link(self) -> str:
        """The end of its cable that is plugged into the bridge."""
        return f"s2vc{self.number}"

    def pids(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]


class Hosts:
    """A head (``driver``), workers by their role, and an S3 server; all addresses lie in 10.77.0.0/24.

    Args:
        workers: role of each worker node; its ``s2v-role`` label.
        cpus: of each worker node, as Ray counts.
        folder: where logs go.

    Use as a context; leaving it kills everything and removes the namespaces.
    """

    def __init__(self, workers: Sequence[str], cpus: int = 2, folder: Path | None = None) -> None:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise HostsError("hosts are network namespaces: run as root on Linux, with iproute2 installed")
        self.roles, self.cpus = workers, cpus
        self.folder = folder or Path(tempfile.mkdtemp(prefix="s2v-hosts-"))
        self.secret = secrets.token_hex(16)
        self.token = secrets.token_hex(24)
        self.hosts: dict[str, Host] = {}
        self._number = 0

    # ---- what a user of the cluster needs

    @property
    def jobs(self) -> str:
        return f"http://{NET}.1:{DASHBOARD_PORT}"

    @property
    def s3(self) -> str:
        return f"http://{NET}.2:{S3_PORT}"

    def environment(self) -> dict[str, str]:
        """Of every node, and of whoever submits jobs: the nodes have the secrets, jobs are given none."""
        paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {
            "PATH": paths,
            "PYTHONPATH": str(ROOT),  # as an image has the package; jobs bring their own copy
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "240",
            "DS_ACCELERATOR": "cpu",
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            **KEYS,
        }
        return {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))} | own

    def s2v(self, *command: str, attempt: int = 1, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Submits ``s2v COMMAND`` as a job over HTTP, follows it to its end, and gives what the client printed."""
        line = self._submit_line(command, attempt)
        return subprocess.run(line, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=timeout)

    def start_s2v(self, *command: str, attempt: int = 1, log: Path) -> subprocess.Popen[bytes]:
        """As ``s2v``, without waiting; the client's output goes to ``log``."""
        line = self._submit_line(command, attempt)
        with log.open("ab") as out:
            return subprocess.Popen(line, cwd=ROOT, env=self.environment(), stdout=out, stderr=subprocess.STDOUT)

    def _submit_line(self, command: tuple[str, ...], attempt: int) -> list[str]:
        options = ["--address", self.jobs, "--attempt", str(attempt), "--yes"]
        return [sys.executable, "-m", "s2v_ray", "submit", *options, "--", *command]

    def stop_job(self, submission: str) -> None:
        """As `ray job stop`."""
        self.get(f"/api/jobs/{submission}/stop", "POST")

    def get(self, path: str, method: str = "GET") -> object:
        """JSON from the dashboard's HTTP API, with the token."""
        request = urllib.request.Request(
            self.jobs + path, method=method, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    # ---- what happens to hosts

    def kill(self, name: str) -> Host:
        """All processes of the host, at once, by SIGKILL."""
        host = self.hosts.pop(name)
        self._kill_processes(host)
        network.unplug(host.namespace, host.link)
        return host

    def drain(self, name: str, seconds: int) -> None:
        """Tells Ray that the node will go in so many seconds, as the agent of spot nodes does."""
        ray = str(Path(sys.executable).with_name("ray"))
        reason = [
            "--reason",
            "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message",
            "spot notice",
            "--deadline-remaining-seconds",
            str(seconds),
        ]
        self._in(
            "head", [ray, "drain-node", "--address", f"{NET}.1:{RAY_PORT}", "--node-id", self.node_id(name), *reason]
        )

    def cut(self, name: str) -> None:
        network.ip("link", "set", self.hosts[name].link, "down")

    def repair(self, name: str) -> None:
        network.ip("link", "set", self.hosts[name].link, "up")

    def pause(self, name: str, stop: bool) -> None:
        """Freezes all processes of a host, or lets them go on."""
        for pid in self.hosts[name].pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP if stop else signal.SIGCONT)

    def node_id(self, name: str) -> str:
        for node in self.nodes():
            if node["raylet"].get("state") == "ALIVE" and node.get("ip") == self.hosts[name].address:
                return str(node["raylet"]["nodeId"])
        raise HostsError(f"Ray knows of no living node {name}")

    def nodes(self) -> list[dict[str, Any]]:
        answer = self.get("/nodes?view=summary")
        assert isinstance(answer, dict)
        return list(answer["data"]["summary"])

    # ---- coming and going

    def __enter__(self) -> Hosts:
        try:
            self._clean()
            network.add_bridge(BRIDGE, BRIDGE_MAC, f"{NET}.254/24")
            head, s3 = self._plug("head", "driver"), self._plug("s3", "s3")
            self._start(s3, [str(Path(sys.executable).with_name("moto_server")), "-H", "0.0.0.0", "-p", str(S3_PORT)])
            _wait_for_port(s3.address, S3_PORT)
            ports = [
                "--port",
                str(RAY_PORT),
                "--dashboard-host",
                head.address,
                "--dashboard-port",
                str(DASHBOARD_PORT),
                "--include-dashboard",
                "true",
            ]
            self._join(head, self._ray(head, 0, "--head", *ports))
            for role in self.roles:
                self.add_worker(role)
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean()

    def add_worker(self, role: str) -> Host:
        host = self._plug(f"{role}-{self._number + 1}", role)
        self._join(host, self._ray(host, self.cpus, "--address", f"{NET}.1:{RAY_PORT}"))
        return host

    def _join(self, host: Host, command: list[str]) -> None:
        """A raylet gives its agent 15 s to come up and then dies, which happens on a busy machine: three attempts."""
        for _ in range(ATTEMPTS):
            self._start(host, command)
            end = time.monotonic() + STARTUP_SECONDS
            while time.monotonic() < end and host.processes[-1].poll() is None:
                with contextlib.suppress(HostsError, OSError):
                    self.node_id(host.name)
                    return
                time.sleep(1.0)
            self._kill_processes(host)
        raise HostsError(f"{host.name} did not join the cluster in {ATTEMPTS} attempts: see {self.folder}")

    def _ray(self, host: Host, cpus: int, *options: str) -> list[str]:
        ray = str(Path(sys.executable).with_name("ray"))
        common = ["--node-ip-address", host.address, "--num-cpus", str(cpus), "--labels", f"s2v-role={host.role}"]
        return [
            ray,
            "start",
            *options,
            *common,
            "--object-store-memory",
            "300000000",
            "--disable-usage-stats",
            "--block",
        ]

    def _plug(self, name: str, role: str) -> Host:
        self._number += 1
        host = Host(name, self._number, role)
        network.plug(host.namespace, host.link, BRIDGE, f"{host.address}/24")
        self.hosts[name] = host
        return host

    def _kill_processes(self, host: Host) -> None:
        """Returns when they have ended and their connections are closed (otherwise Ray's keepalive needs 7 minutes)."""
        killed: set[int] = set()
        while pids := host.pids():  # some may be born meanwhile
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed.update(pids)
            time.sleep(0.1)
        for process in host.processes:
            process.wait()
        while any(map(_has_sockets, killed)):  # one that exits has left its namespace, and holds its sockets yet
            time.sleep(0.1)

    def _start(self, host: Host, command: list[str]) -> None:
        own = self.folder / host.name
        for folder in (own, Path(RAY_FILES)):
            folder.mkdir(exist_ok=True)
        with (self.folder / f"{host.name}.log").open("ab") as log:  # mounts of `ip netns exec` are its own
            line = [
                "ip",
                "netns",
                "exec",
                host.namespace,
                "sh",
                "-c",
                f'mount --bind "$0" {RAY_FILES} && exec "$@"',
                str(own),
                *command,
            ]
            host.processes.append(
                subprocess.Popen(line, cwd=self.folder, env=self.environment(), stdout=log, stderr=subprocess.STDOUT)
            )

    def _in(self, name: str, command: list[str]) -> None:
        line = ["ip", "netns", "exec", self.hosts[name].namespace, *command]
        done = subprocess.run(line, env=self.environment(), capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise HostsError(
                f"{' '.join(command[:3])} ended with status {done.returncode}: {done.stderr.strip()[-500:]}"
            )

    def _clean(self) -> None:
        names = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
        for namespace in (n for n in names if n.startswith("s2v-")):
            pids = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
            for pid in map(int, pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)
        shown = subprocess.run(["ip", "-o", "link", "show"], capture_output=True, text=True).stdout
        for link in [
            *re.findall(r"\b(s2vc\d+)@", shown),
            BRIDGE,
        ]:  # a namespace keeps its cable until its last process is gone
            subprocess.run(["ip", "link", "del", link], capture_output=True)
        self.hosts.clear()


@contextlib.contextmanager
def bucket(hosts: Hosts, name: str = "chaos") -> Iterator[str]:
    """``s3://NAME``, made on the hosts' S3 server; this process reaches it by its environment."""
    import boto3

    keep = dict(os.environ)
    os.environ.update({k: v for k, v in hosts.environment().items() if k.startswith("AWS_")})
    try:
        boto3.client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}"
    finally:
        os.environ.clear()
        os.environ.update(keep)


def _has_sockets(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _wait_for_port(address: str, port: int) -> None:
    end = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=2):
            return
        time.sleep(0.5)
    raise HostsError(f"nothing listens at {address}:{port} after {STARTUP_SECONDS:.0f} s")
