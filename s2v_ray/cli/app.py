"""The Typer application, and how errors become messages and exit statuses.

Exit status: 0 done; 1 a message on stderr names the error; 2 wrong usage; 130 interrupted. With ``S2V_DEBUG=1`` errors show their
tracebacks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import click
import typer

from s2v_ray import storage
from s2v_ray.cli import cluster, corpus, evaluation, inference, project, serving, training
from s2v_ray.cli.base import version

app = typer.Typer(
    name="s2v",
    help="Talking-face video from speech alone. Any URI may be a local path or s3://bucket/key.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for group in (corpus, training, evaluation, inference, serving, cluster, project):
    group.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"s2v_ray {version()}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Talking-face video from speech alone. Any URI may be a local path or s3://bucket/key."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    try:
        status = typer.main.get_command(app).main(
            args=None if argv is None else list(argv), prog_name="s2v", standalone_mode=False
        )
        return int(status or 0)
    except click.ClickException as e:  # wrong usage
        e.show()
        return e.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("s2v: interrupted", file=sys.stderr)
        return 130
    except Exception as e:
        if os.environ.get("S2V_DEBUG") == "1" or not _is_expected(e):
            raise
        print(f"s2v: error: {storage.scrub(_message(e))}", file=sys.stderr)
        return 1


def _is_expected(error: Exception) -> bool:
    """Whether the user can correct it: values, files, networks, a loss that is not finite. Others are faults of this package."""
    botocore = type(error).__module__.startswith("botocore.")
    return isinstance(error, (ValueError, OSError, FloatingPointError)) or botocore


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, FileNotFoundError) and not isinstance(error, storage.ArtifactError):
        return f"no such file: {error}"
    return " ".join(str(error).split()) or type(error).__name__
