"""Commands that serve: serve, export."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from s2v_ray import storage
from s2v_ray.cli.base import Outcome, bundle_of, command

logger = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "localhost")

Host = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on; the default is this machine alone.")]
Port = Annotated[int, typer.Option(help="Port to listen on.")]
TokenEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="Require the bearer token in this environment variable.")
]
Reference = Annotated[str | None, typer.Option(metavar="URI", help="A reference bundle, to compare with.")]
More = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=URI", help="Another bundle that clients can request by name; may be repeated."),
]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help="The identity teacher (CORPUS/teachers/identity); a face can then replace a voice."
    ),
]
Detector = Annotated[str | None, typer.Option(metavar="URI", help="Face detector: haar (default), or YuNet weights.")]
Videos = Annotated[
    str | None, typer.Option(metavar="URI", help="Folder of the videos; default of `serve`: a temporary one.")
]
StudyUri = Annotated[str | None, typer.Option("--study", metavar="URI", help="A study of `s2v study make`, at /study.")]
Replicas = Annotated[
    tuple[int, int] | None, typer.Option(metavar="MIN MAX", help="Replicas, scaled by load; default 1 1.")
]
Device = Annotated[str | None, typer.Option(help="cpu (default) or cuda.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (serve, export):
        app.command(rich_help_panel="Serving")(function)


@dataclass(frozen=True)
class EndpointOptions:
    """Options of an endpoint that `serve` and `export` share; None where not given."""

    token_env: str | None
    device: str | None
    detector: str | None
    teacher: str | None
    videos: str | None
    study: str | None
    reference: str | None
    more: list[str] | None
    replicas: tuple[int, int] | None

    def settings(self) -> dict[str, Any]:
        """Return the fields of ``ServeSettings`` that were given."""
        given: dict[str, Any] = {"token_env": self.token_env, "device": self.device, "detector": self.detector}
        for name, uri in (("teacher", self.teacher), ("videos", self.videos), ("study", self.study)):
            given[name] = storage.absolute(uri) if uri else None
        given["reference"] = bundle_of(self.reference) if self.reference else None
        pairs = [word.partition("=") for word in self.more or ()]
        given["bundles"] = {name: bundle_of(uri) for name, _, uri in pairs} or None
        given["replicas"] = self.replicas
        return {name: value for name, value in given.items() if value}


@command
def serve(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Run of `s2v train`, or its bundle.")],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_env: TokenEnv = None,
    reference: Reference = None,
    more: More = None,
    teacher: Teacher = None,
    detector: Detector = None,
    videos: Videos = None,
    study: StudyUri = None,
    replicas: Replicas = None,
    device: Device = None,
) -> Outcome:
    """Serve a bundle on this machine: an HTTP API, a page at /, and a user study at /study. Ctrl-C ends it.

    Only this machine can reach it unless --host says otherwise; then require a token: --token-env NAME, with the token
    in that variable.

    JSON result: address.
    """
    from s2v_ray.models.bundle import read_card
    from s2v_ray.serving.app import serve_until_interrupted
    from s2v_ray.serving.settings import parse_settings

    if host not in LOOPBACK and not token_env:
        logger.warning("everyone who reaches %s can use this endpoint: require a token with --token-env", host)
    options = EndpointOptions(token_env, device, detector, teacher, videos, study, reference, more, replicas)
    with tempfile.TemporaryDirectory(prefix="s2v-videos-") as folder:
        settings = parse_settings({"bundle": bundle_of(bundle), "videos": folder} | options.settings())
        for uri in settings.uris().values():
            read_card(uri, "speech2video")

        def ready(address: str) -> None:
            logger.info("serving %s at %s", settings.bundle, address)

        serve_until_interrupted(settings, host, port, ready)
    return Outcome({}, {"address": f"http://{host}:{port}"})


@command
def export(
    bundle: Annotated[str | None, typer.Argument(metavar="[BUNDLE]", help="Run of `s2v train`, or its bundle.")] = None,
    best: Annotated[str | None, typer.Option(metavar="URI", help="A sweep whose winner is exported.")] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="URI", help="Bundle to write, with --best.")
    ] = None,
    register_as: Annotated[
        str | None,
        typer.Option("--register", metavar="NAME[@ALIAS]", help="Add the bundle to the model registry of MLflow."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token_env: TokenEnv = None,
    reference: Reference = None,
    more: More = None,
    teacher: Teacher = None,
    detector: Detector = None,
    videos: Videos = None,
    study: StudyUri = None,
    replicas: Replicas = None,
    device: Device = None,
) -> Outcome:
    """Write, beside a bundle, the config file with which `serve deploy` serves it on a cluster.

    s2v export BUNDLE: for a bundle, or that of a run.

    s2v export --best SWEEP -o BUNDLE: first writes the bundle of a sweep's winner, whose card has its lineage. A
    student is not served.

    The bundle also becomes an entry of the trackers that its recipe names in log.loggers. --register NAME@champion adds
    it to MLflow's model registry as the next version of NAME, and makes it the one that models:/NAME@champion names:
    every command that takes a bundle takes such an address.

    JSON result: serve (URI of the file), bundle; with --best also trial, scores and lineage (sweep, trial, values,
    digests of recipe and corpus); with --register also model, version and address.
    """
    from s2v_ray.models.bundle import read_card
    from s2v_ray.serving.deploy import write_serve_config
    from s2v_ray.serving.settings import parse_settings

    if bool(best) == bool(bundle) or bool(best) != bool(output):
        raise ValueError("s2v export takes a bundle, or --best SWEEP with -o BUNDLE")
    winner: dict[str, Any] = {}
    if best and output:
        from s2v_ray.tuning.export import export_best
        from s2v_ray.tuning.trials import open_sweep

        sweep = open_sweep(storage.absolute(best))
        winner = export_best(sweep, storage.absolute(output))
        logger.info("the bundle of trial %s is at %s", winner["trial"], winner["bundle"])
    target = bundle_of(output or bundle or "")
    registered = _track(target, register_as)
    if (best or register_as) and read_card(target)["kind"] == "student":
        return Outcome({"bundle": target}, {**winner, **registered, "bundle": target})
    options = EndpointOptions(token_env, device, detector, teacher, videos, study, reference, more, replicas)
    settings = parse_settings({"bundle": target} | options.settings())
    uri = write_serve_config(settings, host=host, port=port)
    logger.info("wrote %s: `serve deploy` takes it", uri)
    return Outcome({"serve": uri, "bundle": target}, {**winner, **registered, "serve": uri, "bundle": target})


def _track(bundle: str, register_as: str | None) -> dict[str, str]:
    """Write the model card if there is none, publish the bundle in the trackers, and register it."""
    from s2v_ray.publishing.cards import FILE, bundle_files, write_card
    from s2v_ray.publishing.tracked import describe_bundle, loggers_of
    from s2v_ray.tracking.entries import publish
    from s2v_ray.tracking.registry import register

    if not storage.exists(storage.join(bundle, FILE)):
        write_card(bundle)
    entry = describe_bundle(bundle)
    publish(loggers_of(bundle), entry)
    if not register_as:
        return {}
    registered = register(entry, bundle_files(bundle), register_as)
    logger.info("%s is version %s of the model %s", bundle, registered["version"], registered["model"])
    return registered
