"""What all commands share: options, the report for programs, errors, and progress."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
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


def command(function: Callable[..., Outcome]) -> Callable[..., int]:
    """Turn a function that returns an ``Outcome`` into a Typer command.

    It shows progress while the function runs, and writes ``--json``: ``{"command", "version", "recipe", "config_digest",
    "seconds", "artifacts", "result"}``. Keys are added over time, never renamed.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> int:
        json_path, began = kwargs.get("json_path"), time.monotonic()
        if json_path:
            storage.check_writable(storage.absolute(json_path).rpartition("/")[0])
        with logs.installed(console_handler()):
            outcome = function(*args, **kwargs)
        if json_path:
            recipe = outcome.recipe
            report = {
                "command": function.__name__,
                "version": version(),
                "recipe": recipe.name if recipe else None,
                "config_digest": recipe.digest() if recipe else None,
                "seconds": round(time.monotonic() - began, 2),
                "artifacts": outcome.artifacts,
                "result": outcome.result,
            }
            storage.write_json(storage.absolute(json_path), report)
        return 1 if outcome.failed else 0

    return run


def logger_of(name: str) -> logging.Logger:
    """Return the logger of a command module."""
    return logging.getLogger(name)


def load_recipe(name: str, overrides: Sequence[str] | None) -> config.Recipe:
    """Load the recipe of a command."""
    return config.load_recipe(name, overrides or ())


def bundle_of(uri: str) -> str:
    """Return the bundle that ``uri`` names: itself, or the one of the run there."""
    uri = storage.absolute(uri)
    inner = storage.join(uri, "bundle")
    return inner if storage.exists(storage.join(inner, storage.MANIFEST)) else uri


def version() -> str:
    """Return the installed version of this package."""
    try:
        return importlib.metadata.version("s2v_ray")
    except importlib.metadata.PackageNotFoundError:
        return "unknown (not installed)"
