"""What all commands share: options, the report for programs, errors, and progress."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from s2v_ray import config, logs, storage
from s2v_ray.cli.console import console_handler

RECIPES = ", ".join(config.built_in_recipes())

RecipeName = Annotated[
    str, typer.Option("--recipe", metavar="NAME|URI", help=f"A built-in recipe ({RECIPES}) or a YAML file.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override one key of the recipe; may be repeated.")
]
JsonPath = Annotated[
    str | None, typer.Option("--json", metavar="PATH", help="Write the result to this file, for programs.")
]
Corpus = Annotated[str, typer.Argument(metavar="CORPUS", help="URI of the corpus.")]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="URI of the run: checkpoints, metrics, and the bundle at RUN/bundle.")
]


@dataclass(frozen=True)
class Outcome:
    """The result of a command.

    Attributes:
        artifacts: name -> URI of everything that was written.
        result: the command's own keys.
        recipe: the recipe that was used, or None.
        failed: whether the exit status is 1 although the command ran to its end.
    """

    artifacts: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    recipe: config.Recipe | None = None
    failed: bool = False


def command(function: Callable[..., Outcome]) -> Callable[..., None]:
    """Turn a function that returns an ``Outcome`` into a Typer command with the option ``--json``.

    It shows progress while the function runs, prints errors that the user can correct as one message, and writes
    ``--json``: ``{"command", "version", "recipe", "config_digest", "seconds", "artifacts", "result"}``. Keys are added
    over time, never renamed.
    """

    @functools.wraps(function)
    def run(*args: Any, json_path: str | None = None, **kwargs: Any) -> None:
        raise typer.Exit(_status(functools.partial(function, *args, **kwargs), function.__name__, json_path))

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("json_path", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=JsonPath)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by inspect.signature
        parameters=[*signature.parameters.values(), option]
    )
    run.__annotations__ = {**function.__annotations__, "json_path": JsonPath}
    return run


def _status(work: Callable[[], Outcome], name: str, json_path: str | None) -> int:
    """Run a command; return its exit status."""
    try:
        began = time.monotonic()
        if json_path:
            storage.check_writable(storage.absolute(json_path).rpartition("/")[0])
        with logs.installed(console_handler()):
            outcome = work()
        if json_path:
            storage.write_json(storage.absolute(json_path), _report(name, outcome, time.monotonic() - began))
        return 1 if outcome.failed else 0
    except KeyboardInterrupt:
        print("s2v: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        if os.environ.get("S2V_DEBUG") == "1" or not _is_expected(e):
            raise
        print(f"s2v: error: {storage.scrub(_message(e))}", file=sys.stderr)
        return 1


def _report(name: str, outcome: Outcome, seconds: float) -> dict[str, Any]:
    recipe = outcome.recipe
    return {
        "command": name,
        "version": version(),
        "recipe": recipe.name if recipe else None,
        "config_digest": recipe.digest() if recipe else None,
        "seconds": round(seconds, 2),
        "artifacts": outcome.artifacts,
        "result": outcome.result,
    }


def _is_expected(error: Exception) -> bool:
    """Whether the user can correct the error: values, files, networks, a loss that is not finite."""
    botocore = type(error).__module__.startswith("botocore.")
    return isinstance(error, (ValueError, OSError, FloatingPointError)) or botocore


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, FileNotFoundError) and not isinstance(error, storage.ArtifactError):
        return f"no such file: {error}"
    return " ".join(str(error).split()) or type(error).__name__


def load_recipe(name: str, overrides: Sequence[str] | None) -> config.Recipe:
    """Load the recipe of a command."""
    return config.load_recipe(name, tuple(overrides or ()))


def bundle_of(uri: str) -> str:
    """Return the bundle that ``uri`` names: itself, the one of the run there, or that of a registered model."""
    if uri.startswith("models:/"):
        from s2v_ray.tracking.registry import open_model

        return open_model(uri)
    uri = storage.absolute(uri)
    inner = storage.join(uri, "bundle")
    return inner if storage.exists(storage.join(inner, storage.MANIFEST)) else uri


def version() -> str:
    """Return the installed version of this package."""
    try:
        return importlib.metadata.version("s2v_ray")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"
