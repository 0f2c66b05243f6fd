"""Commands that describe and publish: card, push."""

from __future__ import annotations

from typing import Annotated

import typer

from s2v_ray import storage
from s2v_ray.cli.base import Outcome, bundle_of, command

Evaluation = Annotated[
    str | None,
    typer.Option(metavar="URI", help="Folder of `s2v evaluate` on this bundle, whose figures the card then has."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (card, push):
        app.command(rich_help_panel="Publishing")(function)


@command
def card(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Bundle, run of `s2v train` or `s2v distill`, or corpus.")],
    evaluation: Evaluation = None,
) -> Outcome:
    """Write the model card of a bundle, or the data card of a corpus, into its folder as README.md.

    JSON result: card (its URI).
    """
    from s2v_ray.publishing.cards import write_card

    written = write_card(bundle_of(uri), storage.absolute(evaluation) if evaluation else "")
    print(written)
    return Outcome({"card": written}, {"card": written})


@command
def push(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="Run of `s2v train`, or its bundle.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="hf://OWNER/NAME.")],
    evaluation: Evaluation = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; default: private.")] = False,
) -> Outcome:
    """Publish a bundle with its card on the Hugging Face Hub, as one commit. The token is read from HF_TOKEN.

    Needs huggingface_hub (`pip install 's2v_ray[hub]'`). HF_ENDPOINT names another server.

    JSON result: repository, commit, sha256 (of the weights).
    """
    from s2v_ray.publishing.hub import push_bundle

    pushed = push_bundle(bundle_of(bundle), target, storage.absolute(evaluation) if evaluation else "", public=public)
    print(f"{pushed['repository']} {pushed['commit']}")
    return Outcome({"repository": pushed["repository"]}, pushed)
