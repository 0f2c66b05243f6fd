"""Commands that make a corpus: puppets, ingest, offsets, teach."""

from __future__ import annotations

from typing import Annotated

import typer

from s2v_ray import storage
from s2v_ray.cli.base import Corpus, Outcome, Overrides, RecipeName, command, load_recipe


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for function in (puppets, ingest, offsets, teach, inspect):
        app.command(rich_help_panel="Corpus")(function)


@command
def puppets(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write to.")],
    recipe: RecipeName = "puppets",
    overrides: Overrides = None,
) -> Outcome:
    """Make the synthetic corpus with known ground truth: espeak-ng voices and drawn faces, as ordinary MP4 files.

    With puppets.voices, the voices are recordings of people.

    JSON result: clips, speakers, emotions, sentences, frames, seconds (of video), wall_seconds, uri; of recordings
    also set_aside (number by reason) and other_emotions (number of recordings that are not used).
    """
    from s2v_ray.puppets.corpus import make_puppets

    settings, uri = load_recipe(recipe, overrides), storage.absolute(out)
    return Outcome({"puppets": uri}, make_puppets(uri, settings.puppets, settings.seed), settings)


@command
def ingest(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="URI of the folder of videos.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="URI of the corpus to write.")],
    recipe: RecipeName = "puppets",
    overrides: Overrides = None,
) -> Outcome:
    """Turn video files into a corpus: decode, align faces, split, write shards. Rejected files are counted by reason.

    JSON result: the corpus's manifest (clips by split, speakers, emotions, rejects by reason).
    """
    from s2v_ray.ingest.ray_pipeline import ingest as run
    from s2v_ray.publishing.cards import write_card

    settings, uri = load_recipe(recipe, overrides), storage.absolute(corpus)
    manifest = run(storage.absolute(source), uri, settings)
    return Outcome({"corpus": uri, "card": write_card(uri)}, manifest, settings)


@command
def offsets(
    corpus: Corpus,
    out: Annotated[str, typer.Argument(metavar="OUT", help="URI of the folder for the offsets.")],
    sync: Annotated[
        str,
        typer.Option(
            metavar="URI", help="A sync network of another corpus: CORPUS/teachers/sync or CORPUS/judges/sync."
        ),
    ],
    max_offset: Annotated[int, typer.Option(metavar="FRAMES", help="Largest offset in either direction.")] = 15,
) -> Outcome:
    """Measure the audio-video offset of a corpus by source, speaker and clip.

    --sync names a sync network that was trained on another corpus that is in step (puppets are): a network that was
    trained on recordings with a constant offset takes that offset for being in step, and finds 0. Correct the offset
    with s2v ingest SOURCE CORPUS2 --set ingest.offsets=OUT --set ingest.offset=source (or speaker, or clip).

    JSON result: source and speakers (frames, confidence, distance, clips of each; positive frames: the audio is late),
    clips (offset to number of files), short (clips too short to measure).
    """
    from s2v_ray import shards
    from s2v_ray.ingest.offsets import format_table, measure_corpus
    from s2v_ray.models.sync import open_sync

    uri, target = storage.absolute(corpus), storage.absolute(out)
    network, digest = open_sync(storage.absolute(sync), size=shards.read_corpus_manifest(uri)["size"])
    result = measure_corpus(uri, target, network, digest, max_offset)
    print(format_table(result))
    return Outcome({"offsets": target}, result.to_dict())


@command
def teach(corpus: Corpus, recipe: RecipeName = "puppets", overrides: Overrides = None) -> Outcome:
    """Train the teachers and judges that the recipe does not name, and store the teachers' outputs for each clip.

    JSON result: networks (place in the corpus to figures on unseen clips), skipped (place to reason), sync and
    sync_expert (accuracy), annotations (by teacher), seconds.
    """
    from s2v_ray.teach import teach_corpus

    settings, uri = load_recipe(recipe, overrides), storage.absolute(corpus)
    artifacts = {"teachers": storage.join(uri, "teachers"), "judges": storage.join(uri, "judges")}
    return Outcome(artifacts, teach_corpus(uri, settings), settings)


@command
def inspect(
    corpus: Corpus,
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="URI", help="HTML file to write; default: in the corpus.")
    ] = None,
) -> Outcome:
    """Show what is in a corpus: counts, quality of a sample, rejected files with pictures, and clips to play.

    JSON result: clips, counts (by speaker, emotion, split and seconds), rejects (by reason), quality (5th percentile,
    median and 95th percentile of each figure).
    """
    from s2v_ray.ingest.inspection import PAGE, inspect_corpus, write_page

    uri = storage.absolute(corpus)
    found = inspect_corpus(uri)
    page = write_page(found, storage.absolute(output) if output else storage.join(uri, PAGE))
    print(page)
    return Outcome({"page": page}, found.summary())
