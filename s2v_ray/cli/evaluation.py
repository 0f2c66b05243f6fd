"""Commands that measure: evaluate, study."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import Annotated

import typer

from s2v_ray import storage
from s2v_ray.cli.base import Corpus, Outcome, Overrides, RecipeName, bundle_of, command, load_recipe

logger = logging.getLogger(__name__)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (evaluate, study):
        app.command(rich_help_panel="Evaluation")(function)


@command
def evaluate(
    corpus: Corpus,
    out: Annotated[str, typer.Argument(metavar="OUT", help="URI of the folder for the report.")],
    bundle: Annotated[str, typer.Option(metavar="URI", help="Run of `s2v train`, or its bundle.")],
    reference_bundle: Annotated[
        str | None, typer.Option(metavar="URI", help="Run of `s2v train --reference`, or its bundle.")
    ] = None,
    recipe: RecipeName = "puppets",
    overrides: Overrides = None,
) -> Outcome:
    """Measure a bundle on held-out speech, beside real footage, stills and the reference baseline.

    JSON result: rows (row to values, metric to mean and 95% interval), missing_rows, differences (paired, with
    margins), two_sample, diversity, confusion (of forced emotions), student, bars, metrics (name to better, unit), and
    what it was measured on and with.
    """
    from s2v_ray.evaluation.evaluate import evaluate as run
    from s2v_ray.evaluation.report import format_table, write_report
    from s2v_ray.publishing.tracked import describe_evaluation
    from s2v_ray.tracking.entries import publish

    settings, target = load_recipe(recipe, overrides), storage.absolute(out)
    reference = bundle_of(reference_bundle) if reference_bundle else None
    results = run(storage.absolute(corpus), target, bundle_of(bundle), settings, reference_bundle=reference)
    artifacts = write_report(target, results)
    publish(settings.log.loggers, describe_evaluation(target, results, artifacts, settings))
    print(format_table(results))
    for name, uri in artifacts.items():
        print(f"{name}: {uri}")
    return Outcome(artifacts, dict(results), settings)


class StudyAction(StrEnum):
    """What `s2v study` does."""

    make = "make"
    report = "report"


@command
def study(
    action: Annotated[StudyAction, typer.Argument(metavar="ACTION", help="make or report.")],
    uri: Annotated[str, typer.Argument(metavar="STUDY", help="URI of the study.")],
    corpus: Annotated[
        str | None, typer.Option(metavar="URI", help="make: the corpus; clips of its test split.")
    ] = None,
    bundle: Annotated[str | None, typer.Option(metavar="URI", help="make: run of `s2v train`, or its bundle.")] = None,
    reference_bundle: Annotated[
        str | None, typer.Option(metavar="URI", help="make: run of `s2v train --reference`, or its bundle.")
    ] = None,
    clips: Annotated[int, typer.Option(help="make: number of clips.")] = 20,
    seed: Annotated[int, typer.Option(help="make: seed of the clips and of the order of questions.")] = 0,
    csv: Annotated[str | None, typer.Option(metavar="URI", help="report: write all answers to this CSV file.")] = None,
) -> Outcome:
    """Run a user study: make its clips, ask people at /study of `s2v serve --study URI`, and report their answers.

    JSON result: of make, the study's manifest and answers_needed; of report, participants, excluded, answers,
    preference and emotion (share, low and high of the 95% interval, count), equivalence.
    """
    from s2v_ray.evaluation.equivalence import MARGIN, answers_needed
    from s2v_ray.evaluation.study_report import answers_csv, compute_report, format_report, read_answers
    from s2v_ray.evaluation.user_study import StudyDesign, make_study

    study_uri = storage.absolute(uri)
    if action is StudyAction.report:
        answers = read_answers(study_uri)
        result = compute_report(answers)
        print(format_report(result))
        if csv:
            storage.write_bytes(storage.absolute(csv), answers_csv(answers).encode())
        return Outcome({"csv": csv} if csv else {}, dict(result))
    if not corpus or not bundle:
        raise ValueError("study make needs --corpus and --bundle")
    reference = bundle_of(reference_bundle) if reference_bundle else None
    design = StudyDesign(clips=clips, seed=seed)
    made = make_study(storage.absolute(corpus), study_uri, bundle_of(bundle), reference, design)
    needed = answers_needed(MARGIN)
    if reference:
        people = -(-needed * 3 // design.pairs)  # a third of the pairs compares speech only with the baseline
        logger.info("%d answers are needed to show equivalence within %.0f%%: %d people", needed, 100 * MARGIN, people)
    return Outcome({"study": study_uri}, made | {"answers_needed": needed})
