"""Commands about clusters: plan, submit, jobs, doctor."""

from __future__ import annotations

import dataclasses
import logging
import os
from datetime import timedelta
from typing import Annotated, Any

import typer
import yaml

from s2v_ray import storage
from s2v_ray.cli.base import Outcome, Overrides, RecipeName, command, load_recipe
from s2v_ray.config import digest

logger = logging.getLogger(__name__)

WORKER_COUNTS = [2**i for i in range(11)]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    panel = "Clusters"
    app.command(rich_help_panel=panel)(plan)
    words_follow = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command(rich_help_panel=panel, context_settings=words_follow)(submit)
    app.command(rich_help_panel=panel)(jobs)
    app.command(rich_help_panel=panel)(doctor)


@command
def plan(
    corpus: Annotated[str, typer.Option(metavar="URI", help="The corpus: size and number of clips.")],
    cluster: Annotated[str, typer.Option(metavar="URI", help="Manifest of the cluster: cluster/aws.yaml.")],
    measured: Annotated[
        str,
        typer.Option(metavar="URI", help="A run of `s2v train` whose speed is used, or a YAML file of measurements."),
    ],
    prices: Annotated[str | None, typer.Option(metavar="URI", help="Default: prices.yaml beside the manifest.")] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="A number of workers; may be repeated; default 1 2 4 ... 1024."),
    ] = None,
    hours: Annotated[float, typer.Option(help="Hours of video of the projection, used once.")] = 1e6,
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="URI", help="A run whose speed is compared with the prediction; may be repeated."),
    ] = None,
    plot: Annotated[str | None, typer.Option(metavar="PATH", help="SVG to write: speed over workers.")] = None,
    recipe: RecipeName = "full",
    overrides: Overrides = None,
) -> Outcome:
    """Estimate what a training run needs: memory, speed, hours, cost and bottleneck for several numbers of workers.

    JSON result: rows (by number of workers), memory (bytes of a rank), engines (parameters), projection (one pass over
    --hours of video), compared (predicted and measured speed of each --against), measured, corpus, assumptions,
    warnings.
    """
    from s2v_ray.cluster import planning
    from s2v_ray.cluster.manifests import load_cluster

    settings, manifest = load_recipe(recipe, overrides), storage.absolute(cluster)
    price_list = storage.absolute(prices or storage.join(manifest.rpartition("/")[0], "prices.yaml"))
    hourly = yaml.safe_load(storage.read_bytes(price_list))
    speed, size = planning.read_measurement(measured), planning.read_corpus_size(corpus)
    inputs = planning.make_inputs(settings, speed, size, load_cluster(manifest), hourly)
    made = planning.make_plan(inputs, sorted(set(workers or WORKER_COUNTS)), hours)
    compared = planning.compare(inputs, [planning.read_measurement(uri) for uri in against or ()])
    result = made.to_dict() | {
        "prices": {"date": str(hourly["date"]), "source": hourly["source"]},
        "compared": [dataclasses.asdict(c) for c in compared],
    }
    print(planning.format_plan(made))
    print(f"prices of {hourly['date']}: {hourly['source']}")
    for c in compared:
        print(
            f"{c.run}: {c.workers} workers, {c.predicted:.2f} clips/s predicted, {c.measured:.2f} measured "
            f"({c.error:+.1%})"
        )
    artifacts = {}
    if plot:
        artifacts["plot"] = storage.absolute(plot)
        storage.write_bytes(artifacts["plot"], planning.plot_plan(made))
    return Outcome(artifacts, result, settings)


@command
def submit(
    context: typer.Context,
    words: Annotated[list[str], typer.Argument(metavar="-- COMMAND ...", help="A command of s2v with its arguments.")],
    address: Annotated[
        str, typer.Option(metavar="URL", help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS.")
    ] = "",
    working_dir: Annotated[str, typer.Option(metavar="PATH", help="Folder that is uploaded.")] = ".",
    pip: Annotated[
        str,
        typer.Option(metavar="FILE", help="Requirements to install on the nodes; default: their image has everything."),
    ] = "",
    image: Annotated[str, typer.Option(metavar="URI", help="Image to run in, which then contains the code too.")] = "",
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Pass this environment variable on; may be repeated.")
    ] = None,
    attempt: Annotated[int, typer.Option(metavar="N", help="Run the same command again, under another id.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Run it.")] = False,
) -> Outcome:
    """Print the `ray job submit` that runs a command of s2v on a cluster; --yes runs it and follows the job.

    Errors in the command are found before it is submitted. The submission id is derived from the command, its recipe
    and the manifests of its inputs: submitted twice, it runs once, and after new input it runs again. Environment
    variables are passed by name; secrets are not passed, the nodes have their own.

    JSON result: submission_id, command, submitted (whether a new job was).
    """
    from s2v_ray.cluster.submit import PASSED_VARIABLES, ClusterJob, parse_command
    from s2v_ray.cluster.submit import submit as run

    arguments = parse_command(words)
    parameters = _parameters(context, arguments)
    variables = dict.fromkeys([*(v for v in PASSED_VARIABLES if v in os.environ), *(env or ())])
    job = ClusterJob(
        arguments,
        _recipe_digest(parameters),
        attempt,
        address,
        working_dir,
        pip=pip,
        image=image,
        variables=tuple(variables),
        inputs=_inputs_digest(parameters),
    )
    print(job.command_line())
    submitted = run(job, os.environ) if yes else False
    if yes and not submitted:
        logger.warning(
            "the cluster has job %s already: `ray job logs -f %s`; --attempt %d runs it again",
            job.submission_id, job.submission_id, job.attempt + 1,
        )  # fmt: skip
    return Outcome({}, {"submission_id": job.submission_id, "command": job.command_line(), "submitted": submitted})


@command
def jobs(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="Submission id: follow this job's logs.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the job instead.")] = False,
    address: Annotated[
        str, typer.Option(metavar="URL", help="The cluster's dashboard; default: RAY_API_SERVER_ADDRESS.")
    ] = "",
) -> Outcome:
    """List the jobs of a cluster, the latest first; with JOB, follow or stop it.

    JSON result: jobs (id, status, started, seconds, entrypoint), or the status of the job. The exit status is 1 for a
    job that failed or was stopped before its end.
    """
    from s2v_ray.cluster import submit as cluster

    if job is None:
        if stop:
            raise ValueError("--stop needs the submission id of a job")
        rows = cluster.list_jobs(address)
        for row in rows:
            duration = "" if row.seconds is None else str(timedelta(seconds=round(row.seconds)))
            print(f"{row.id:40} {row.status:10} {duration:>10}  {row.entrypoint}")
        return Outcome({}, {"jobs": [dataclasses.asdict(row) for row in rows]})
    if stop:
        stopped = cluster.stop(job, address)
        print(f"{job}: {'stopped' if stopped else 'had ended already'}")
        return Outcome({}, {"stopped": stopped})
    status = cluster.follow(job, address)
    print(f"{job}: {status}")
    return Outcome({}, {"status": status}, failed=status != "SUCCEEDED")


def _parameters(context: typer.Context, words: tuple[str, ...]) -> dict[str, Any]:
    """Parse a command of s2v without running it; return its parameters by name.

    Raises:
        TyperException: the command is not valid.
    """
    group: Any = context.find_root().command
    if words[0] not in group.commands:
        raise typer.BadParameter(f"there is no command {words[0]!r}; known: {', '.join(group.commands)}")
    parameters: dict[str, Any] = group.commands[words[0]].make_context(words[0], list(words[1:])).params
    return parameters


def _recipe_digest(parameters: dict[str, Any]) -> str:
    """Return the digest of a command's recipe, or "".

    Raises:
        RecipeError: the recipe is not valid.
    """
    if "recipe" not in parameters:
        return ""
    return load_recipe(parameters["recipe"], parameters.get("overrides")).digest()


def _inputs_digest(parameters: dict[str, Any]) -> str:
    """Return the digest of what a command reads, or "" with a warning if it cannot be read from here."""
    names = ["source"] if "source" in parameters else ["corpus", "student", "bundle", "reference_bundle"]
    uris = [storage.absolute(parameters[name]) for name in names if parameters.get(name)]
    try:
        return digest([storage.fingerprint(uri) for uri in uris])
    except (OSError, ValueError) as e:
        logger.warning("the submission id does not depend on the inputs, which cannot be read from here: %s", e)
        return ""


@command
def doctor(
    uri: Annotated[str, typer.Argument(metavar="URI", help="The place to check: a folder, or s3://bucket/key.")],
) -> Outcome:
    """Check a place, local or s3://, and this machine, and explain what is wrong. Nothing remains there.

    Exit status 1 if a check fails.

    JSON result: checks (name, status ok, warn or fail, and a message each), failed (number).
    """
    from s2v_ray.cluster.preflight import run_checks

    checks = []
    for check in run_checks(uri):
        print(f"{check.status:4}  {check.name:14}  {check.message}", flush=True)
        checks.append(check.to_dict())
    failed = sum(c["status"] == "fail" for c in checks)
    return Outcome({}, {"checks": checks, "failed": failed}, failed=failed > 0)
