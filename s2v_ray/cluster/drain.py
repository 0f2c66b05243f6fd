"""Drains a Ray node that is about to end, so that its tasks and actors move while it still runs.

``python -m s2v_ray.cluster.drain`` drains the node that it runs on. Kubernetes calls it before it ends a pod
(``preStop``): a spot notice arrives as the deletion of the pod. It needs the standard library only.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

RAY_SECONDS = 60
"""Timeout of a call of the ray executable."""


def node_id(ray: Sequence[str], address: str) -> str:
    """Returns Ray's id of the node with an IP address.

    Raises:
        RuntimeError: ray fails, or has no such node that is alive.
    """
    command = [*ray, "list", "nodes", "--format", "json", "--filter", f"node_ip={address}", "--filter", "state=ALIVE"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RAY_SECONDS, check=False)
    nodes = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []
    if not nodes:
        raise RuntimeError(
            f"ray has no node {address} that is alive (status {done.returncode}): {done.stderr.strip()[-500:]}"
        )
    return str(nodes[0]["node_id"])


def drain(ray: Sequence[str], node: str, message: str, seconds: int | None) -> bool:
    """Drains a node in Ray, which gets ``seconds`` for it (None: no deadline); returns whether Ray accepts."""
    deadline = [] if seconds is None else ["--deadline-remaining-seconds", str(seconds)]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", message]
    command = [*ray, "drain-node", "--node-id", node, *reason, *deadline]
    try:
        return subprocess.run(command, timeout=RAY_SECONDS, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main(argv: Sequence[str] | None = None) -> int:
    """Drains this node and waits; returns the exit status, 1 if Ray does not accept.

    The container ends when this program does, or earlier with Ray itself, which stops when the node has no work left.
    """
    parser = argparse.ArgumentParser(prog="python -m s2v_ray.cluster.drain", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, required=True, help="time that Ray gets, and that this program waits")
    parser.add_argument("--address", default="", metavar="IP", help="of this node; otherwise that of the host name")
    parser.add_argument("--ray", default="ray", metavar="PATH", help="ray's executable")
    args = parser.parse_args(argv)
    began = time.monotonic()
    try:
        node = node_id([args.ray], args.address or socket.gethostbyname(socket.gethostname()))
    except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as e:
        sys.stderr.write(f"drain: {e}\n")
        return 1
    left = max(0, int(args.seconds - (time.monotonic() - began)))
    if not drain([args.ray], node, "the pod is being deleted", left):
        sys.stderr.write(f"drain: ray does not drain node {node}\n")
        return 1
    time.sleep(max(0.0, args.seconds - (time.monotonic() - began)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
