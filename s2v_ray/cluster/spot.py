"""Agent for spot nodes on EC2: reads interruption notices and drains the node in Ray.

It runs beside the raylet (``python -m s2v_ray.cluster.spot``) and needs the standard library only. Every 5 seconds,
as EC2's guide recommends, it reads from the instance's metadata service (IMDSv2, with a session token)

- ``spot/instance-action``: the node will be interrupted at a given time, about two minutes later, which Ray gets.
- ``events/recommendations/rebalance``: the node is likely to be interrupted. Ray gets no deadline.

Each notice is passed on once. The agent ends after an interruption notice; after a rebalance notice it continues.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ spot-instance-termination-notices.html,
rebalance-recommendations.html, configuring-instance-metadata-service.html.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from s2v_ray.cluster.drain import drain, node_id
from s2v_ray.logs import installed

logger = logging.getLogger("s2v_ray.cluster.spot")  # also if this module is run as a program

METADATA = "http://169.254.169.254"
"""Address of the metadata service."""
TOKEN_SECONDS = 21_600
"""Lifetime of a session token; the maximum."""
POLL_SECONDS = 5.0
"""Time between two requests."""
MARGIN_SECONDS = 10
"""Subtracted from the remaining time, so that Ray finishes before the node ends."""


@dataclass(frozen=True)
class Notice:
    """A notice of EC2.

    Attributes:
        kind: "interruption" or "rebalance".
        deadline: end of the node, if known.
    """

    kind: str
    deadline: datetime | None

    def seconds_left(self, now: datetime) -> int | None:
        """Returns the seconds that Ray may use, at least 0; None without a deadline."""
        return None if self.deadline is None else max(0, int((self.deadline - now).total_seconds()) - MARGIN_SECONDS)


class Metadata:
    """EC2's instance metadata service (IMDSv2).

    Args:
        address: of the service.
    """

    def __init__(self, address: str = METADATA) -> None:
        self.address = address
        self._token = ""
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # a proxy would return its own metadata

    def get(self, path: str) -> str | None:
        """Returns the text at ``latest/meta-data/PATH``; None if there is none (404).

        Raises:
            OSError: the service refuses or does not respond.
        """
        try:
            return self._page(path)
        except urllib.error.HTTPError as e:
            if e.code != 401:
                raise
        self._token = ""  # it has expired
        return self._page(path)

    def _page(self, path: str) -> str | None:
        if not self._token:
            self._token = self._request(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            )
        try:
            return self._request("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as e:
            if e.code == 404:
                return None
            raise

    def _request(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self.address + path, method=method, headers=headers)
        with self._opener.open(request, timeout=2) as response:
            text: str = response.read().decode()
            return text


def read_notice(metadata: Metadata) -> Notice | None:
    """Returns the most severe current notice, or None."""
    found = metadata.get("spot/instance-action")
    if found is not None:
        return Notice("interruption", datetime.fromisoformat(json.loads(found)["time"]).astimezone(UTC))
    return None if metadata.get("events/recommendations/rebalance") is None else Notice("rebalance", None)


def watch(metadata: Metadata, ray: Sequence[str], node: str, poll: float = POLL_SECONDS) -> Notice:
    """Passes each kind of notice on once; returns when Ray has accepted an interruption."""
    accepted: set[str] = set()
    while True:
        try:
            notice = read_notice(metadata)
        except (OSError, ValueError, KeyError, TypeError) as e:  # the agent must survive an invalid response
            logger.warning("metadata: %s: %s", type(e).__name__, e)
            notice = None
        if notice is not None and notice.kind not in accepted:
            message, left = f"EC2 spot {notice.kind} notice", notice.seconds_left(datetime.now(UTC))
            drained = drain(ray, node, message, left)
            outcome = "drains this node" if drained else "refused, trying again"
            logger.info("%s notice, deadline %s: ray %s", notice.kind, notice.deadline, outcome)
            if drained and notice.kind == "interruption":
                return notice
            accepted |= {notice.kind} if drained else set()
        time.sleep(poll)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the agent; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m s2v_ray.cluster.spot",
        description="Drains this Ray node when EC2 announces its interruption.",
    )
    parser.add_argument("--metadata", default=METADATA, metavar="URL", help="address of the metadata service")
    parser.add_argument("--ray", default="ray", metavar="PATH", help="ray's executable")
    parser.add_argument("--poll", type=float, default=POLL_SECONDS, metavar="SECONDS")
    args = parser.parse_args(argv)
    with installed(_stdout_handler()):
        metadata = Metadata(args.metadata)
        if metadata.get("instance-life-cycle") != "spot":
            logger.info("not a spot node: nothing to do")
            return 0
        node = _wait_for_ray(metadata, args.ray, args.poll)
        logger.info("watching node %s", node)
        watch(metadata, [args.ray], node, args.poll)
    return 0


def _stdout_handler() -> logging.Handler:
    """Returns a handler that prints messages with the time in UTC."""
    handler = logging.StreamHandler(sys.stdout)
    formatter = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    return handler


def _wait_for_ray(metadata: Metadata, ray: str, poll: float) -> str:
    """Returns the node's id once Ray knows it. It is read at the start, to save time after a notice."""
    while True:
        try:
            return node_id([ray], metadata.get("local-ipv4") or "unknown")
        except (RuntimeError, OSError, ValueError, subprocess.TimeoutExpired) as e:
            logger.info("waiting for ray: %s", e)
            time.sleep(poll)


if __name__ == "__main__":
    sys.exit(main())
