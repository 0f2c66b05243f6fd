"""The agent of a spot node on EC2: hears that the node will be taken away, and tells Ray, which nothing else does.

Runs beside the raylet (``python -m s2v_ray.cluster.spot``), on the standard library alone. Every 5 seconds, as EC2's guide advises, it asks
the instance's metadata service (IMDSv2: each question carries a session token) for

- ``spot/instance-action``: this node ends at a stated time, about two minutes ahead. Ray is told the time that is left.
- ``events/recommendations/rebalance``: this node is likely to be taken. No time is stated, and Ray is given none.

Each is passed on once; after the first of them the agent has done its work, after the second it still waits for the first.
Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ spot-instance-termination-notices.html, rebalance-recommendations.html,
configuring-instance-metadata-service.html.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

METADATA = "http://169.254.169.254"
TOKEN_SECONDS = 21_600
"""Life of a session token, seconds; the longest there is."""
POLL_SECONDS = 5.0
MARGIN_SECONDS = 10
"""Taken off the time that EC2 states: Ray should be done before the machine is."""
RAY_SECONDS = 60
"""A call of ray that takes longer is given up and made again."""


@dataclass(frozen=True)
class Notice:
    """What EC2 said. ``deadline``: when the node goes, where that was said."""

    kind: str
    deadline: datetime | None

    def seconds_left(self, now: datetime) -> int | None:
        """Whole seconds that Ray may use, never below 0; None where no end was stated."""
        return None if self.deadline is None else max(0, int((self.deadline - now).total_seconds()) - MARGIN_SECONDS)


class Metadata:
    """EC2's instance metadata, by IMDSv2."""

    def __init__(self, address: str = METADATA) -> None:
        self.address = address
        self._token = ""
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy would ask about itself

    def get(self, path: str) -> str | None:
        """The text at ``latest/meta-data/PATH``; None where there is none (404).

        Raises:
            OSError: the service does not answer, or refuses.
        """
        try:
            return self._page(path)
        except urllib.error.HTTPError as e:
            if e.code != 401:
                raise
        self._token = ""  # its life is over
        return self._page(path)

    def _page(self, path: str) -> str | None:
        if not self._token:
            self._token = self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            )
        try:
            return self._ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as e:
            if e.code == 404:
                return None
            raise

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self.address + path, method=method, headers=headers)
        with self._opener.open(request, timeout=2) as answer:
            text: str = answer.read().decode()
            return text


def look(metadata: Metadata) -> Notice | None:
    """The gravest notice there is."""
    found = metadata.get("spot/instance-action")
    if found is not None:
        return Notice("interruption", datetime.fromisoformat(json.loads(found)["time"]).astimezone(UTC))
    return None if metadata.get("events/recommendations/rebalance") is None else Notice("rebalance", None)


def node_id(ray: Sequence[str], address: str) -> str:
    """Ray's id of the node with this IP address.

    Raises:
        RuntimeError: ray fails, or knows of no such node that is alive.
    """
    command = [*ray, "list", "nodes", "--format", "json", "--filter", f"node_ip={address}", "--filter", "state=ALIVE"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RAY_SECONDS)
    nodes = json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else []
    if not nodes:
        raise RuntimeError(
            f"ray knows of no node {address} that is alive (status {done.returncode}): {done.stderr.strip()[-500:]}"
        )
    return str(nodes[0]["node_id"])


def drain(ray: Sequence[str], node: str, notice: Notice) -> bool:
    """Tells Ray that the node goes; whether Ray agreed."""
    left = notice.seconds_left(datetime.now(UTC))
    deadline = [] if left is None else ["--deadline-remaining-seconds", str(left)]
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", f"EC2 spot {notice.kind} notice"]
    try:
        return (
            subprocess.run([*ray, "drain-node", "--node-id", node, *reason, *deadline], timeout=RAY_SECONDS).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False


def watch(
    metadata: Metadata, ray: Sequence[str], node: str, poll: float = POLL_SECONDS, say: Callable[[str], None] = print
) -> Notice:
    """Waits for notices and passes each kind on once; returns the interruption when Ray has agreed to it."""
    told: set[str] = set()
    while True:
        try:
            notice = look(metadata)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as e:  # one bad answer must not leave the node without its agent
            say(f"metadata: {type(e).__name__}: {e}")
            notice = None
        if notice is not None and notice.kind not in told:
            accepted = drain(ray, node, notice)
            say(
                f"{notice.kind} notice, deadline {notice.deadline}: ray {'drains this node' if accepted else 'did not agree, asking again'}"
            )
            if accepted and notice.kind == "interruption":
                return notice
            told |= {notice.kind} if accepted else set()
        time.sleep(poll)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m s2v_ray.cluster.spot",
        description="Drains this Ray node when EC2 says that it will be taken away.",
    )
    parser.add_argument("--metadata", default=METADATA, metavar="URL", help="address of the metadata service")
    parser.add_argument("--ray", default="ray", metavar="PATH", help="ray's executable")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, metavar="SECONDS")
    args = parser.parse_args(argv)
    metadata = Metadata(args.metadata)
    if metadata.get("instance-life-cycle") != "spot":
        _say("not a spot node: nothing to do")
        return 0
    node = _wait_for_ray(metadata, args.ray, args.poll)
    _say(f"watching node {node}")
    watch(metadata, [args.ray], node, args.poll, _say)
    return 0


def _wait_for_ray(metadata: Metadata, ray: str, poll: float) -> str:
    """The node's id, asked for at the start: in the last two minutes every second counts."""
    while True:
        try:
            return node_id([ray], metadata.get("local-ipv4") or "unknown")
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as e:
            _say(f"waiting for ray: {e}")
            time.sleep(poll)


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
