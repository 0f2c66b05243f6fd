"""The endpoint on Ray Serve: autoscaled replicas, multiplexed bundles, rolling updates.

A replica is a process with its own API, models and batches. Whatever must outlive it (videos, answers of a study) is at
a URI. ``app`` is the import path of a Serve config file; ``local_endpoint`` is an endpoint on this machine alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from starlette.types import ASGIApp

from s2v_ray import logs
from s2v_ray.cluster.runtime import node_selector, nodes_for, start_ray
from s2v_ray.serving.api import create_app
from s2v_ray.serving.batching import Batcher
from s2v_ray.serving.bundles import open_bundle
from s2v_ray.serving.guard import read_token
from s2v_ray.serving.ray_metrics import RayMetrics
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import ServeSettings, parse_settings

APPLICATION = "s2v"
PROXY_TIMEOUTS = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30"}
"""Seconds that Serve waits for its proxy. The default of 5 seconds to start is too short on a busy machine."""
MAX_LOADED_BUNDLES = 3
"""Number of bundles in the memory of a replica. Serve routes requests that name their bundle in the header."""
SHUTDOWN_SECONDS = 60.0
"""Longest time that a replica which is removed may take for its open requests; its videos go to other replicas."""
DOWNSCALE_SECONDS = 120

logger = logging.getLogger(__name__)


@dataclass
class LoadedBundle:
    """A loaded bundle. Serve deletes it when another one takes its place; its open requests are still finished."""

    batcher: Batcher

    def __del__(self) -> None:
        self.batcher.close()


class MultiplexedBundles:
    """The bundles of a replica, of which Serve keeps ``MAX_LOADED_BUNDLES`` in memory."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings

    @serve.multiplexed(max_num_models_per_replica=MAX_LOADED_BUNDLES)  # type: ignore[untyped-decorator]  # Ray's
    async def _bundle(self, name: str) -> LoadedBundle:
        return LoadedBundle(open_bundle(self.settings, name))

    async def load(self, name: str) -> Batcher:
        """The bundle of that name."""
        loaded: LoadedBundle = await self._bundle(name)
        return loaded.batcher

    async def close(self) -> None:
        """Does nothing: Serve deletes the bundles of a replica that ends."""


@serve.ingress()  # the application is created in the replica, by the method below
class Endpoint:
    """One replica.

    Args:
        settings: fields of ``ServeSettings``.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        package = logging.getLogger(logs.PACKAGE)
        package.setLevel(logging.INFO)
        if os.environ.get(logs.FORMAT) == "json":
            package.addHandler(logs.JsonHandler())
        self.settings = parse_settings(settings)
        self.service = Service(self.settings, MultiplexedBundles(self.settings))
        self.ray_metrics = RayMetrics(self.service.metrics.registry)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        self.ray_metrics.copy_forever()
        return create_app(self.service, read_token(self.settings.token_env))


def app(args: Mapping[str, Any]) -> serve.Application:
    """Builds the Serve application of an endpoint.

    Args:
        args: fields of ``ServeSettings``.

    Raises:
        SettingsError: a field is unknown or not valid.
    """
    settings = parse_settings(args)
    deployment = serve.deployment(Endpoint).options(
        name="Endpoint",
        ray_actor_options=_actor_options(settings),
        # The replica refuses requests itself, with a code and Retry-After, before Serve does so without.
        max_ongoing_requests=2 * settings.limits.requests,
        max_queued_requests=8 * settings.limits.requests,
        graceful_shutdown_timeout_s=SHUTDOWN_SECONDS,
        **_scaling_options(settings),
    )
    return deployment.bind(settings.model_dump(mode="json"))


def _actor_options(settings: ServeSettings) -> dict[str, Any]:
    """Resources of a replica. In a cluster without nodes for serving, replicas run on any node."""
    options: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus}
    selector = node_selector("serve") if nodes_for("serve") else None
    return options | ({"label_selector": selector} if selector else {})


def _scaling_options(settings: ServeSettings) -> dict[str, Any]:
    smallest, largest = settings.replicas
    if smallest == largest:
        return {"num_replicas": smallest}
    return {
        "autoscaling_config": {
            "min_replicas": smallest,
            "max_replicas": largest,
            "target_ongoing_requests": settings.load,
            "downscale_delay_s": DOWNSCALE_SECONDS,
        }
    }


@contextlib.contextmanager
def local_endpoint(settings: ServeSettings, host: str, port: int) -> Iterator[str]:
    """Runs an endpoint on this machine, in its own Ray instance, within the context; yields its address.

    Raises:
        ValueError: the port is in use, the token is missing, or the endpoint does not start.
    """
    read_token(settings.token_env)  # so that the error is raised here and not in the log of a replica
    _check_port(host, port)
    for name, value in PROXY_TIMEOUTS.items():
        os.environ.setdefault(name, value)
    cpus = max(os.cpu_count() or 1, int(settings.replicas[1] * settings.cpus) + 1)
    start_ray(local=True, num_cpus=cpus)
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port, "request_timeout_s": None})
        try:
            serve.run(app(settings.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
        except RuntimeError as e:
            raise ValueError(f"the endpoint did not start: {_failure_reason()}") from e
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def serve_until_interrupted(settings: ServeSettings, host: str, port: int, on_ready: Callable[[str], object]) -> None:
    """Runs ``local_endpoint`` until SIGINT or SIGTERM.

    Args:
        settings: settings of the endpoint.
        host: address to listen on.
        port: port to listen on.
        on_ready: called with the address when the endpoint answers.

    Raises:
        ValueError: as ``local_endpoint``.
    """
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with local_endpoint(settings, host, port) as address:
        on_ready(address)
        while not stop.wait(1.0):
            pass


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise ValueError(f"cannot listen on {host} port {port} ({e.strerror}): choose another with --port") from e


def _failure_reason() -> str:
    """The last line of the message of a failed deployment."""
    status = serve.status().applications.get(APPLICATION)
    message = " ".join(d.message for d in status.deployments.values()) if status else ""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "see the logs in /tmp/ray/session_latest/logs/serve"
