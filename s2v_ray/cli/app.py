"""The Typer application.

Exit status: 0 done; 1 a message on stderr names the error; 2 wrong usage; 130 interrupted. With ``S2V_DEBUG=1`` errors
show their tracebacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from s2v_ray.cli import cluster, corpus, evaluation, inference, project, publishing, serving, training
from s2v_ray.cli.base import version

HELP = "Talking-face video from speech alone. Any URI may be a local path or s3://bucket/key."

app = typer.Typer(
    name="s2v", help=HELP, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)
for group in (project, corpus, training, evaluation, publishing, inference, serving, cluster):
    group.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"s2v_ray {version()}")
        raise typer.Exit


@app.callback(help=HELP)
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    try:
        app(args=None if argv is None else list(argv), prog_name="s2v")
    except SystemExit as e:  # Typer always exits
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0
