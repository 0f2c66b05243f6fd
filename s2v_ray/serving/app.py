"""The endpoint on Ray Serve: replicas that scale on load, bundles by multiplexing, rolling updates.

A replica is a process with its own API, its own model and its own batches; whatever must outlive it (jobs, answers of a study) lies at a URI.
``app`` is the import path of a Serve config file; ``serve_here`` is an endpoint on this machine alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray import serve
from starlette.types import ASGIApp

from s2v_ray.cluster.runtime import node_selector, nodes_for, start_ray
from s2v_ray.serving.api import create_app, read_token
from s2v_ray.serving.batching import Batcher
from s2v_ray.serving.service import Service, open_bundle
from s2v_ray.serving.settings import ServeSettings, parse_settings

APPLICATION = "s2v"
PATIENCE = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30"}
"""Seconds that Serve gives its proxy on this machine: by default 5 to start, after which it kills it, and a busy machine needs longer."""
LOADED = 3
"""Bundles that a replica keeps in memory; Serve leads a request to a replica that has its bundle, if the header names it."""
HANDOVER_SECONDS = 60.0
"""Longest time that a replica which is to go may take for the requests it has; jobs are handed to others."""


@dataclasses.dataclass
class _Loaded:
    """A bundle at work. Serve calls ``__del__`` when another takes its place; speeches that are under way are drawn to their end."""

    batcher: Batcher

    def __del__(self) -> None:
        self.batcher.close()


@serve.ingress()  # the application is made in the replica, by the method below
class Endpoint:
    """One replica."""

    def __init__(self, settings: dict[str, Any]) -> None:
        logging.getLogger("s2v_ray").setLevel(logging.INFO)
        self.settings = parse_settings(settings)
        self.service = Service(self.settings, self.load)

    @serve.multiplexed(max_num_models_per_replica=LOADED)
    async def bundle(self, name: str) -> _Loaded:
        return _Loaded(open_bundle(self.settings, name))

    async def load(self, name: str) -> Batcher:
        loaded: _Loaded = await self.bundle(name)
        return loaded.batcher

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self.service, read_token(self.settings.token_env))


def app(args: dict[str, Any]) -> serve.Application:
    """The application of an endpoint. ``args``: the fields of ``ServeSettings``.

    Raises:
        SettingsError: a field that is unknown or cannot be used.
    """
    settings = parse_settings(args)
    fewest, most = settings.replicas
    scaling = {
        "autoscaling_config": {
            "min_replicas": fewest,
            "max_replicas": most,
            "target_ongoing_requests": settings.load,
            "downscale_delay_s": 120,
        }
    }
    place_of = (
        node_selector("serve") if nodes_for("serve") else None
    )  # a cluster without such nodes, as the one for training is, serves where there is room
    resources: dict[str, Any] = {"num_cpus": settings.cpus, "num_gpus": settings.gpus} | (
        {"label_selector": place_of} if place_of else {}
    )
    deployment = serve.deployment(Endpoint).options(
        name="Endpoint",
        ray_actor_options=resources,
        # The replica refuses by itself, with a code and Retry-After, before Serve does so without.
        max_ongoing_requests=2 * settings.limits.requests,
        max_queued_requests=8 * settings.limits.requests,
        graceful_shutdown_timeout_s=HANDOVER_SECONDS,
        **({"num_replicas": fewest} if fewest == most else scaling),
    )
    return deployment.bind(settings.model_dump(mode="json"))


@contextlib.contextmanager
def serve_here(settings: ServeSettings, host: str, port: int) -> Iterator[str]:
    """An endpoint on this machine, in a Ray of its own, for as long as the context is open; gives its address.

    Raises:
        ValueError: the port is taken, or the endpoint does not start.
    """
    read_token(settings.token_env)  # what is wrong with it is said here, not in a replica's log
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise ValueError(f"cannot listen on {host} port {port} ({e.strerror}): choose another with --port") from e
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    cpus = max(os.cpu_count() or 1, int(settings.replicas[1] * settings.cpus) + 1)
    start_ray(local=True, num_cpus=cpus)
    try:
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port, "request_timeout_s": None})
        try:
            serve.run(app(settings.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
        except RuntimeError as e:
            raise ValueError(f"the endpoint did not start: {_reason()}") from e
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def _reason() -> str:
    """What a replica that failed said last."""
    status = serve.status().applications.get(APPLICATION)
    said = " ".join(d.message for d in status.deployments.values()) if status else ""
    return next(
        (line.strip() for line in reversed(said.splitlines()) if line.strip()),
        "see the logs in /tmp/ray/session_latest/logs/serve",
    )


def serve_until_interrupted(settings: ServeSettings, host: str, port: int, ready: Callable[[str], object]) -> None:
    """``serve_here`` until SIGINT or SIGTERM. ``ready`` is told the address when it answers. Raises as that does."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serve_here(settings, host, port) as address:
        ready(address)
        while not stop.wait(1.0):
            pass
