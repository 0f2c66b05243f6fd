"""Commands that train: distill, train, tune."""

from __future__ import annotations

from typing import Annotated

import typer

from s2v_ray import storage
from s2v_ray.cli.base import Corpus, Outcome, Overrides, RecipeName, Run, bundle_of, command, load_recipe
from s2v_ray.config import Recipe


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (distill, train, tune):
        app.command(rich_help_panel="Training")(function)


@command
def distill(
    corpus: Corpus,
    run: Run,
    recipe: RecipeName = "puppets",
    overrides: Overrides = None,
) -> Outcome:
    """Distill the teachers into the student, whose only input is speech. Labels of the corpus are not used.

    JSON result: run, bundle, steps, metrics (the last training record and those of the validation).
    """
    from s2v_ray.publishing.cards import write_card
    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    settings = load_recipe(recipe, overrides)
    result = launch(RunSpec("distill", settings, corpus, run))
    write_card(result["bundle"])
    return Outcome({"run": result["run"], "bundle": result["bundle"]}, result, settings)


@command
def train(
    corpus: Corpus,
    run: Run,
    student: Annotated[str, typer.Option(metavar="URI", help="Run of `s2v distill`, or its bundle.")],
    reference: Annotated[bool, typer.Option("--reference", help="Train the reference baseline.")] = False,
    recipe: RecipeName = "puppets",
    overrides: Overrides = None,
) -> Outcome:
    """Train the generator against its discriminators; --reference trains the baseline that also gets a still.

    JSON result: run, bundle, steps, metrics (the last training record and those of the validation).
    """
    from s2v_ray.publishing.cards import write_card
    from s2v_ray.training.launch import launch
    from s2v_ray.training.runs import RunSpec

    settings = load_recipe(recipe, overrides)
    result = launch(RunSpec("gan", settings, corpus, run, bundle_of(student), reference))
    write_card(result["bundle"])
    return Outcome({"run": result["run"], "bundle": result["bundle"]}, result, settings)


@command
def tune(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="URI of the corpus, or the word report.")],
    sweep: Annotated[str, typer.Argument(metavar="SWEEP", help="URI of the sweep: table, runs, report.")],
    space: Annotated[
        str | None, typer.Option(metavar="URI", help="YAML file: what to vary, and how to search.")
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Run of `s2v distill`, or its bundle; default: one is distilled for all trials."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the sweep at SWEEP.")] = False,
    recipe: RecipeName = "puppets",
    overrides: Overrides = None,
) -> Outcome:
    """Run a sweep over keys of the recipe. Each trial is a whole run; a rule of the space picks the winner.

    s2v tune CORPUS SWEEP --space FILE runs the trials, prints them, and writes SWEEP/report.html.

    s2v tune report SWEEP prints and writes that again, also of a running sweep.

    --resume continues an interrupted sweep with the same space and recipe: no finished trial runs again, an unfinished
    one continues from its checkpoint. Then: s2v export --best SWEEP -o BUNDLE. Exit status 1 if no trial has finished.

    JSON result: sweep, trials (by state), reasons (why trials ended early), steps, pareto, winner, run, params, scores.
    """
    from s2v_ray.tracking.entries import publish
    from s2v_ray.tuning.report import format_table, write_report
    from s2v_ray.tuning.tracked import describe_sweep
    from s2v_ray.tuning.trials import open_sweep, summary

    settings, uri = load_recipe(recipe, overrides), storage.absolute(sweep)
    if space:
        result = _run_sweep(uri, space, settings, corpus, student, resume)
    elif corpus == "report":
        existing = open_sweep(uri)
        result = summary(existing, existing.trials())
    else:
        raise ValueError(
            "s2v tune needs --space FILE, one of tune_spaces/ or your own; `s2v tune report SWEEP` shows a sweep"
        )
    opened = open_sweep(uri)
    artifacts = {"sweep": uri, **write_report(opened)}
    publish(opened.recipe.log.loggers, describe_sweep(opened, result, artifacts["report"]))
    print(format_table(opened))
    print(f"report: {artifacts['report']}")
    return Outcome(artifacts, result, settings, failed=result["winner"] is None)


def _run_sweep(
    uri: str, space: str, recipe: Recipe, corpus: str, student: str | None, resume: bool
) -> dict[str, object]:
    from s2v_ray.tuning.space import load_space
    from s2v_ray.tuning.sweep import run_sweep

    parent = bundle_of(student) if student else None
    return run_sweep(uri, load_space(space, recipe), recipe, corpus, student=parent, resume=resume)
