"""Commands about the whole: demo, recipes."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml

from s2v_ray import config, storage
from s2v_ray.cli.base import Outcome, Overrides, RecipeName, command, load_recipe


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (demo, recipes):
        app.command(rich_help_panel="Start here")(function)


@command
def demo(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write to.")],
    reference: Annotated[
        bool,
        typer.Option("--reference", help="Also train the reference baseline; default: its rows are missing."),
    ] = False,
    recipe: RecipeName = "demo",
    overrides: Overrides = None,
) -> Outcome:
    """Run the whole chain on the synthetic corpus: a table of metrics, a report, a contact sheet and an MP4.

    A second call skips what is done.

    JSON result: steps (name to seconds and the step's own result).
    """
    from s2v_ray.demo import run_demo

    settings = load_recipe(recipe, overrides)
    artifacts, result = run_demo(storage.absolute(out), settings, reference=reference)
    return Outcome(artifacts, result, settings)


@command
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="[NAME|URI]", help="Recipe to print in full.")] = None,
    overrides: Overrides = None,
) -> Outcome:
    """List the built-in recipes; with a name or URI, print that recipe in full, defaults included.

    JSON result: the full recipe, or the list of names.
    """
    if not name:
        print("\n".join(config.built_in_recipes()))
        return Outcome({}, {"recipes": config.built_in_recipes()})
    shown = load_recipe(name, overrides)
    full = shown.model_dump(mode="json")
    print(f"# digest {shown.digest()}\n{yaml.safe_dump(full, sort_keys=False)}", end="")
    return Outcome({}, {"recipe": full, "digest": shown.digest()})
