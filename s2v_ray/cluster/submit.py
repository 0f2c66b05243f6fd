"""Submission of a command of s2v to a Ray cluster, as a job."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from s2v_ray.cluster.manifests import SECRET
from s2v_ray.config import digest

logger = logging.getLogger(__name__)

EXCLUDES = [".git", ".venv", "docs", "tests", "demo", "*.mp4"]
"""Parts of the working directory that are not uploaded."""
PASSED_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "S2V_DEBUG", "S2V_LOG_FORMAT")
"""Environment variables that a job gets if they are set here. None of them is a secret."""
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_PROGRAMS = (["s2v"], ["python", "-m", "s2v_ray"], ["python3", "-m", "s2v_ray"])


class SubmitError(ValueError):
    """A job that must not be submitted, or that failed; the message says why."""


@dataclass(frozen=True)
class ClusterJob:
    """A command to run on a cluster.

    Attributes:
        command: arguments of ``s2v``, such as ``("train", "s3://...")``.
        recipe_digest: of the command's recipe; "" if it has none.
        inputs: digest of what the command reads; "" if it is not known here.
        attempt: 1 for the first; another attempt gives another id, to repeat a job that failed.
        address: of the cluster's dashboard; "": from the environment.
        working_dir: folder that is uploaded.
        pip: a requirements file, or "".
        image: a container image with code and packages, or "". Without ``pip`` and ``image``, the nodes' own image
            is used.
        variables: names of environment variables that the job gets. Their values are not stored here.

    Raises:
        SubmitError: a variable is not a name or would publish a secret, or both ``pip`` and ``image`` are given.
    """

    command: tuple[str, ...]
    recipe_digest: str
    attempt: int = 1
    address: str = ""
    working_dir: str = "."
    pip: str = ""
    image: str = ""
    variables: tuple[str, ...] = ()
    inputs: str = ""

    def __post_init__(self) -> None:
        for name in self.variables:
            if not _VARIABLE.fullmatch(name):
                raise SubmitError(
                    f"{name!r} is not the name of an environment variable: "
                    "give names, values are read where they are set"
                )
            if SECRET.search(name):
                raise SubmitError(
                    f"{name} would be readable in the job's metadata: "
                    "give the nodes a cloud role or a secret (see cluster/)"
                )
        if self.pip and self.image:
            raise SubmitError("an image brings its own packages: --image and --pip exclude each other")

    @property
    def submission_id(self) -> str:
        """Id of the job: the same for the same command, recipe, inputs and attempt, which Ray does not run twice."""
        parts = [list(self.command), self.recipe_digest, self.inputs, self.attempt]
        return f"s2v-{self.command[0]}-{digest(parts)}"

    @property
    def entrypoint(self) -> list[str]:
        """The program and its arguments."""
        return ["python", "-m", "s2v_ray", *self.command]

    def runtime_env(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """Returns Ray's runtime environment, except for the working directory.

        Args:
            environment: values of the variables.

        Raises:
            SubmitError: a variable is not set.
        """
        missing = [name for name in self.variables if name not in environment]
        if missing:
            raise SubmitError(f"not set here: {', '.join(missing)}")
        runtime_env: dict[str, Any] = {"image_uri": self.image} if self.image else {"excludes": EXCLUDES}
        if self.pip:
            runtime_env["pip"] = self.pip
        if self.variables:
            runtime_env["env_vars"] = {name: environment[name] for name in self.variables}
        return runtime_env

    def arguments(self, environment: Mapping[str, str]) -> list[str]:
        """Returns the arguments of the equivalent ``ray job submit``. Raises as ``runtime_env``."""
        address = ["--address", self.address] if self.address else []
        code = [] if self.image else ["--working-dir", self.working_dir]  # Ray accepts an image only without other code
        runtime_env = ["--runtime-env-json", json.dumps(self.runtime_env(environment))]
        options = [*address, "--submission-id", self.submission_id, *code, *runtime_env]
        return ["ray", "job", "submit", *options, "--", *self.entrypoint]

    def command_line(self) -> str:
        """Returns the equivalent ``ray job submit`` for a shell, which expands the names of variables."""
        marks = {name: f"\0{name}\0" for name in self.variables}  # NUL is in no argument; JSON writes it as \u0000
        words = [shlex.quote(a) for a in self.arguments(marks)]
        return re.sub(r"\\u0000(\w+)\\u0000", r"""'"$\1"'""", " ".join(words))


def submit(job: ClusterJob, environment: Mapping[str, str]) -> bool:
    """Submits a job, prints its logs, and waits for its end.

    Args:
        job: to submit.
        environment: values of the job's variables.

    Returns:
        False if the cluster has this job already; it is not run again.

    Raises:
        SubmitError: the cluster has another release of Ray, refuses the job, or the job failed or was stopped.
        ConnectionError: the cluster does not respond.
    """
    runtime_env = job.runtime_env(environment)
    if not job.image:
        runtime_env["working_dir"] = job.working_dir
    from ray.job_submission import JobStatus

    client = connect(job.address)
    if not job.image:
        _check_version(getattr(client, "_server_ray_version", None))  # no public method returns it
    try:
        if not _start(client, job, runtime_env):
            return False
        logger.info("submitted job %s", job.submission_id)
        asyncio.run(_print_logs(client, job.submission_id))
        info = client.get_job_info(job.submission_id)
    except RuntimeError as e:
        raise SubmitError(f"the cluster refuses job {job.submission_id}: {_last_line(str(e))}") from e
    if info.status != JobStatus.SUCCEEDED:
        reason = (info.message or "").partition(", last available logs")[0].partition("\n")[0]
        raise SubmitError(
            f"the job ended with status {info.status}{f' ({reason})' if reason else ''}; "
            f"`ray job logs {job.submission_id}` shows its logs, --attempt {job.attempt + 1} tries again"
        )
    return True


def connect(address: str) -> Any:
    """Returns Ray's client of the cluster at ``address``; "": from the environment.

    Raises:
        SubmitError: the cluster demands a token, or refuses the one that is set.
        ConnectionError: the cluster does not respond.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    headers = json.loads(os.environ.get("RAY_JOB_HEADERS", "null"))  # as `ray job submit` does
    try:
        return JobSubmissionClient(address or None, headers=headers)
    except AuthenticationError as e:
        mode = os.environ.get("RAY_AUTH_MODE", "disabled")
        advice = (
            "is not the cluster's: copy the cluster's token to ~/.ray/auth_token, or set RAY_AUTH_TOKEN"
            if mode == "token"
            else f"is not sent, because RAY_AUTH_MODE is {mode}: set RAY_AUTH_MODE=token, and put the cluster's token "
            "into ~/.ray/auth_token or RAY_AUTH_TOKEN"
        )
        raise SubmitError(f"the cluster demands a token; the one of this environment {advice}") from e
    except RuntimeError as e:
        raise SubmitError(f"the cluster refuses the connection: {_last_line(str(e))}") from e


def _check_version(cluster: str | None) -> None:
    """Check that the cluster's Ray, with which the code of this environment will run, is of the release it needs."""
    from ray import __version__ as here

    if cluster is not None and Version(cluster).release[:2] != Version(here).release[:2]:
        raise SubmitError(
            f"the cluster runs Ray {cluster}, this environment Ray {here}: submit an image with --image, start the "
            f"cluster from this version's image, or install 'ray=={cluster}' and an s2v_ray that supports it here"
        )


def _start(client: Any, job: ClusterJob, runtime_env: dict[str, Any]) -> bool:
    """Starts the job unless the cluster has it; returns whether it was started."""
    if _is_known(client, job.submission_id):
        return False
    entrypoint = shlex.join(job.entrypoint)
    try:
        client.submit_job(entrypoint=entrypoint, submission_id=job.submission_id, runtime_env=runtime_env)
    except RuntimeError:
        if _is_known(client, job.submission_id):  # another process has submitted it in the meantime
            return False
        raise
    return True


@dataclass(frozen=True)
class JobRow:
    """A job of a cluster.

    Attributes:
        id: submission id.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        started: Unix time; None if it has not started.
        seconds: duration, so far or in all; None if it has not started.
        entrypoint: command line.
    """

    id: str
    status: str
    started: float | None
    seconds: float | None
    entrypoint: str


def list_jobs(address: str = "") -> list[JobRow]:
    """Returns the submitted jobs of the cluster at ``address``, the latest first. Raises as ``connect``."""
    rows = []
    for details in connect(address).list_jobs():
        if details.submission_id is None:  # a driver that was not submitted
            continue
        started = details.start_time / 1000 if details.start_time else None
        ended = details.end_time / 1000 if details.end_time else time.time()
        seconds = None if started is None else ended - started
        rows.append(JobRow(details.submission_id, str(details.status), started, seconds, details.entrypoint))
    return sorted(rows, key=lambda row: row.started or float("inf"), reverse=True)


def follow(job: str, address: str = "") -> str:
    """Prints the logs of a job until it ends; returns its status.

    Raises:
        SubmitError: the cluster has no such job; otherwise as ``connect``.
    """
    client = _client_of(job, address)
    asyncio.run(_print_logs(client, job))
    return str(client.get_job_info(job).status)


def stop(job: str, address: str = "") -> bool:
    """Stops a job; returns False if it had ended. Raises as ``follow``."""
    return bool(_client_of(job, address).stop_job(job))


def _client_of(job: str, address: str) -> Any:
    client = connect(address)
    if not _is_known(client, job):
        raise SubmitError(f"the cluster has no job {job}; `s2v jobs` lists them")
    return client


def _is_known(client: Any, submission_id: str) -> bool:
    return any(details.submission_id == submission_id for details in client.list_jobs())


async def _print_logs(client: Any, submission_id: str) -> None:
    async for lines in client.tail_job_logs(submission_id):
        print(lines, end="", flush=True)


def _last_line(text: str) -> str:
    """Returns the last line of an error of Ray, which contains the traceback of the server."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def parse_command(words: Sequence[str]) -> tuple[str, ...]:
    """Returns the arguments of ``s2v`` in ``words``, without ``--`` and ``s2v`` or ``python -m s2v_ray`` before them.

    Raises:
        SubmitError: there are none.
    """
    arguments = list(words[1:] if words[:1] == ["--"] else words)
    for program in _PROGRAMS:
        if arguments[: len(program)] == program:
            arguments = arguments[len(program) :]
    if not arguments:
        raise SubmitError("nothing to submit: s2v submit -- train s3://... --recipe full")
    return tuple(arguments)
