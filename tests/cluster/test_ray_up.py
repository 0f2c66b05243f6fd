"""`ray up cluster/onprem.yaml` with real containers: machines, cluster, jobs, and nothing left after `ray down`.

The machines are namespaces (``tests/helpers/machines.py``); a fourth one is the user's. `make test-containers` builds
the image and runs this.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from s2v_ray.cluster.launcher import TAG, render
from tests.helpers.machines import Machine, Machines, missing

ROOT = Path(__file__).parents[2]
IMAGE = f"localhost/s2v_ray:{TAG}-cpu"
HOME = "/home/ubuntu"
SECRET = "planted-secret-of-the-storage"
NODES = ("head", "train-1", "ingest-1")
JOBS_SECONDS = 600

pytestmark = pytest.mark.containers


def config(machines: Machines) -> str:
    """The shipped file, filled in as its comments say, for an image that is on the machines and in no registry."""
    head, train, ingest = (machines[name].address for name in NODES)
    filled = render("onprem")
    for mark, value in {
        "REPLACE-HEAD-NAME": "head",
        "REPLACE-TRAIN-NAME": "train",
        "REPLACE-HEAD": head,
        "REPLACE-TRAIN-1": train,
        "REPLACE-INGEST-1": ingest,
        "REPLACE-USER": "ubuntu",
        "~/.ssh/REPLACE-KEY": f"{HOME}/.ssh/key",
        "REPLACE-REGISTRY": "localhost",
        f"{TAG}-gpu": f"{TAG}-cpu",
    }.items():
        assert mark in filled
        filled = filled.replace(mark, value)
    content = yaml.safe_load(filled)
    content["docker"]["pull_before_run"] = False
    return yaml.safe_dump(content)


class User:
    """The user's machine: it has the project, its virtual environment, and what docs/clusters.md asks for."""

    def __init__(self, machines: Machines) -> None:
        self.machine, self.gateway = machines["laptop"], machines.gateway
        environment = {
            "HOME": HOME,
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self.prefix = ["env", "--chdir", str(ROOT), *(f"{name}={value}" for name, value in environment.items())]
        self.write(".ssh/key", machines.key.read_text())
        self.write(".aws/credentials", f"[default]\naws_access_key_id = test\naws_secret_access_key = {SECRET}\n")
        self.write(".aws/config", f"[default]\nregion = us-east-1\nendpoint_url = http://{self.gateway}:9000\n")
        self.write("cluster.yaml", config(machines))

    def write(self, name: str, text: str) -> None:
        script = 'umask 077 && mkdir -p "$(dirname "$0")" && cat >"$0"'
        self.machine.run(["sh", "-c", script, f"{HOME}/{name}"], user="root", input=text, check=True)

    def run(self, *command: str, check: bool = True, timeout: float = JOBS_SECONDS) -> str:
        began = time.monotonic()
        done = self.machine.run([*self.prefix, *command], user="root", timeout=timeout)
        said = done.stdout + done.stderr
        print(f"{' '.join(command)[:100]}: status {done.returncode}, {time.monotonic() - began:.0f} s", flush=True)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {said[-6000:]}"
        return said

    def s2v(self, *command: str) -> str:
        return self.run("python", "-m", "s2v_ray", *command)

    def submit(self, *command: str) -> str:
        return self.s2v("submit", "--address", "http://localhost:8265", "--yes", "--", *command)

    @contextmanager
    def dashboard(self) -> Iterator[None]:
        """`ray dashboard`, which forwards the port 8265 of the head."""
        log = self.machine.folder / "dashboard.log"
        process = self.machine.start([*self.prefix, "ray", "dashboard", f"{HOME}/cluster.yaml"], log)
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C
            process.wait()


def get(head: Machine, token: str, path: str) -> str:
    """What Ray's dashboard answers."""
    request = urllib.request.Request(f"http://{head.address}:8265{path}")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=30) as response:
        text: str = response.read().decode()
        return text


def nodes(head: Machine, token: str) -> dict[str, str]:
    """Address -> role label, of the living nodes."""
    found = json.loads(get(head, token, "/api/v0/nodes?detail=1"))["data"]["result"]["result"]
    return {node["node_ip"]: node["labels"].get("s2v-role", "") for node in found if node["state"] == "ALIVE"}


def wait_for_nodes(machines: Machines, token: str, seconds: float = 180) -> None:
    expected = {machines[name].address: name.partition("-")[0] for name in NODES}
    expected[machines["head"].address] = "driver"
    end, found = time.monotonic() + seconds, {}
    while time.monotonic() < end and found != expected:
        with suppress(OSError):
            found = nodes(machines["head"], token)
        time.sleep(1)
    assert found == expected, machines["head"].run(
        ["docker", "exec", "s2v", "sh", "-c", "tail -n 60 /tmp/ray/session_latest/logs/monitor.*"]
    )


def logs_with(machines: Machines, *secrets: str) -> list[str]:
    """Files of Ray and of the jobs, on all nodes, that contain a secret."""
    search = ["docker", "exec", "--interactive", "s2v", "grep", "-rlF", "-f", "-", "/tmp/ray"]
    done = {name: machines[name].run(search, input="\n".join(secrets)) for name in NODES}
    assert all(found.returncode in (0, 1) for found in done.values()), done
    return [f"{name}: {file}" for name, found in done.items() for file in found.stdout.splitlines()]


@pytest.fixture
def machines() -> Iterator[Machines]:
    if lacking := missing():
        pytest.skip(f"machines of namespaces need {lacking}")
    if subprocess.run(["podman", "image", "exists", IMAGE]).returncode:
        pytest.skip(f"there is no image {IMAGE}: `make test-containers` builds it")
    shared = [str(ROOT), sys.prefix, sys.base_prefix]
    with Machines([*NODES, "laptop"], [f for f in shared if not f.startswith("/usr")]) as machines:
        yield machines


@pytest.fixture
def s3(machines: Machines) -> Iterator[None]:
    """moto's server, at an address that all machines reach, with the bucket ``bucket``."""
    server = Path(sys.executable).with_name("moto_server")
    with (machines.folder / "s3.log").open("wb") as log:
        process = subprocess.Popen([server, "-H", machines.gateway, "-p", "9000"], stdout=log, stderr=log)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError):
            urllib.request.urlopen(urllib.request.Request(f"http://{machines.gateway}:9000/bucket", method="PUT"))
            break
        time.sleep(0.5)
    else:
        raise TimeoutError((machines.folder / "s3.log").read_text()[-2000:])
    yield
    process.terminate()
    process.wait()


def test_from_nothing_to_a_trained_run_and_nothing_left(machines: Machines, s3: None) -> None:
    user = User(machines)
    user.run("sh", "-c", "umask 077 && ray get-auth-token --generate")
    token = user.run("cat", f"{HOME}/.ray/auth_token").strip()
    try:
        user.run("ray", "up", "--yes", "--no-config-cache", f"{HOME}/cluster.yaml")
        wait_for_nodes(machines, token)
        inspected = machines["head"].run(["docker", "inspect", "s2v"]).stdout
        assert token not in inspected and SECRET not in inspected
        with user.dashboard():
            run_the_chain(user)
            jobs = get(machines["head"], token, "/api/jobs/")
        assert jobs.count('"SUCCEEDED"') == 4 and token not in jobs and SECRET not in jobs
        assert logs_with(machines, token, SECRET) == []
    finally:
        user.run("ray", "down", "--yes", f"{HOME}/cluster.yaml", check=False)
    for name in NODES:
        left = machines[name].containers(), machines[name].processes()
        assert left == ([], []), name


def run_the_chain(user: User) -> None:
    """Each step is a job, on the nodes with its role."""
    shorter = ["puppets.emotions=[neutral, angry]", "teach.steps=20", "distill.steps=10", "gan.steps=10"]
    recipe = ["--recipe", "debug", *(word for one in shorter for word in ("--set", one))]
    user.s2v("puppets", "s3://bucket/videos", *recipe)
    user.submit("ingest", "s3://bucket/videos", "s3://bucket/corpus", *recipe)
    user.submit("teach", "s3://bucket/corpus", *recipe)
    user.submit("distill", "s3://bucket/corpus", "s3://bucket/student", *recipe)
    said = user.submit("train", "s3://bucket/corpus", "s3://bucket/run", "--student", "s3://bucket/student", *recipe)
    assert "10/10" in said
