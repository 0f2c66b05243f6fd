"""The command that hands a job to a Ray cluster: ``ray job submit``, filled in."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s2v_ray.cluster.manifests import SECRET
from s2v_ray.config import digest

EXCLUDES = [".git", ".venv", "docs", "tests", "demo", "*.mp4"]
"""What the job does not need of the working directory."""
PASSED = ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "S2V_DEBUG")
"""Environment variables that a job gets where they are set here. None is a secret."""
_VARIABLE = re.compile(r"[A-Za-z_]\w*")


class SubmitError(ValueError):
    """A job that must not be submitted like this; the message says why."""


@dataclass(frozen=True)
class Job:
    """What to run on a cluster.

    Attributes:
        command: arguments of ``s2v``, e.g. ``("train", "s3://...")``.
        recipe_digest: of the recipe that it will resolve to; "" where it has none.
        attempt: 1 for the first; a job that failed for good gets another id by another attempt.
        variables: names of environment variables that are passed on. Their values never enter this object.
        pip: a requirements file, or ""; image: an image that has everything, or "". Neither: the nodes' own image does.
    """

    command: tuple[str, ...]
    recipe_digest: str
    attempt: int = 1
    address: str = ""
    working_dir: str = "."
    pip: str = ""
    image: str = ""
    variables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.variables:
            if not _VARIABLE.fullmatch(name):
                raise SubmitError(
                    f"{name!r} is not the name of an environment variable: give names, values are read where they are set"
                )
            if SECRET.search(name):
                raise SubmitError(
                    f"{name} would stand in the job's metadata for all to read: give the nodes a cloud role or a secret (see cluster/)"
                )
        if self.pip and self.image:
            raise SubmitError("an image brings its own packages: --image and --pip exclude each other")

    @property
    def submission_id(self) -> str:
        """The same for the same command, recipe and attempt, so that Ray refuses to run it twice."""
        return f"s2v-{self.command[0]}-{digest([list(self.command), self.recipe_digest, self.attempt])}"

    def arguments(self, environment: Mapping[str, str]) -> list[str]:
        """The argument list. ``environment`` gives the variables' values.

        Raises:
            SubmitError: a variable is not set there.
        """
        missing = [name for name in self.variables if name not in environment]
        if missing:
            raise SubmitError(f"not set here: {', '.join(missing)}")
        runtime: dict[str, Any] = {"image_uri": self.image} if self.image else {"excludes": EXCLUDES}
        if self.pip:
            runtime["pip"] = self.pip
        if self.variables:
            runtime["env_vars"] = {name: environment[name] for name in self.variables}
        where = ["--address", self.address] if self.address else []
        code = [] if self.image else ["--working-dir", self.working_dir]  # Ray takes an image alone
        options = ["--submission-id", self.submission_id, *code, "--runtime-env-json", json.dumps(runtime)]
        return ["ray", "job", "submit", *where, *options, "--", "python", "-m", "s2v_ray", *self.command]

    def shown(self) -> str:
        """The command line for a shell. Variables stand there by name; the shell puts their values in."""
        marks = {name: f"\0{name}\0" for name in self.variables}  # NUL is in no argument; JSON writes it as \u0000
        words = [shlex.quote(a) for a in self.arguments(marks)]
        return re.sub(r"\\u0000(\w+)\\u0000", r"""'"$\1"'""", " ".join(words))


def submit(job: Job, environment: Mapping[str, str]) -> bool:
    """Runs the command, and follows the job to its end. False where the cluster has that job already; it then runs, or ran, only once.

    Raises:
        SubmitError: Ray refused, or the job failed or was stopped, which Ray's client ends with status 0.
    """
    process = subprocess.Popen(
        job.arguments(environment), env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    known = succeeded = False
    for line in process.stdout:
        known = known or (job.submission_id in line and "already exists" in line)
        succeeded = succeeded or f"Job '{job.submission_id}' succeeded" in line
        if not known:
            print(line, end="", flush=True)
    status = process.wait()
    if not known and (status or not succeeded):
        what = f"ray job submit ended with status {status}" if status else "the job did not come to its end"
        raise SubmitError(
            f"{what}; `ray job logs {job.submission_id}` tells more, --attempt {job.attempt + 1} tries again"
        )
    return not known


def plain(command: Sequence[str]) -> tuple[str, ...]:
    """The arguments of ``s2v`` in what follows ``--``: with or without ``s2v`` or ``python -m s2v_ray`` before them."""
    words = list(command[1:] if command[:1] == ["--"] else command)
    for start in (["s2v"], ["python", "-m", "s2v_ray"], ["python3", "-m", "s2v_ray"]):
        if words[: len(start)] == start:
            words = words[len(start) :]
    if not words:
        raise SubmitError("nothing to submit: s2v submit -- train s3://... --recipe full")
    return tuple(words)
