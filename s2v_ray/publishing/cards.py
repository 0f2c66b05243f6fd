"""Model cards and data cards (Mitchell et al. 2019; Gebru et al. 2021): Markdown with the metadata that hubs read.

Everything in a card is read from artifacts: the bundle's card, the corpus's manifest, the results of an evaluation.
What is not known is stated as not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import yaml

from s2v_ray import shards, storage
from s2v_ray.evaluation.results import EVALUATION_SCHEMA, IntervalResult, Results, check_schema
from s2v_ray.models.bundle import INTENDED_USE, MISUSE, read_card
from s2v_ray.provenance import UNKNOWN, describe_corpus

FILE = "README.md"
"""Name of a card, which hubs show as the first page."""
SHOWN_ROWS = ("real clips", "another real take", "reference baseline", "speech only")


def model_card(card: Mapping[str, Any], results: Results | None = None) -> str:
    """Write the card of a model.

    Args:
        card: of the bundle (``models.bundle.read_card``).
        results: of an evaluation of this bundle; without them the card states that there are none.

    Returns:
        Markdown.
    """
    data = card["corpus"]
    metadata = {
        "library_name": "s2v_ray",
        "license": "other",  # that of the weights depends on corpus and teachers
        "license_name": "see-licences-below",
        "tags": ["talking-face", "speech-to-video", "synthetic-media"],
    }
    return _render(
        "model_card.md",
        metadata,
        card=card,
        data=data,
        results=results,
        table=_figures(results) if results else None,
        unknown=UNKNOWN,
    )


def data_card(corpus: str) -> str:
    """Write the card of a corpus, Markdown.

    Raises:
        ArtifactError: see ``describe_corpus``.
    """
    data = describe_corpus(corpus)
    manifest = shards.read_corpus_manifest(corpus)
    metadata = {
        "license": "other",
        "license_name": "see-licence-below",
        "tags": ["talking-face", "audio-visual-speech"],
    }
    return _render(
        "data_card.md",
        metadata,
        data=data,
        manifest=manifest,
        intended_use=INTENDED_USE,
        misuse=MISUSE,
        unknown=UNKNOWN,
    )


def write_card(uri: str, evaluation: str = "") -> str:
    """Write the card of a bundle or of a corpus into its folder.

    Args:
        uri: of a bundle or a corpus.
        evaluation: URI of an evaluation of the bundle, whose figures the card then contains.

    Returns:
        URI of the card.

    Raises:
        ArtifactError: there is neither a bundle nor a corpus, it is damaged, or the evaluation is of another bundle.
        ValueError: an evaluation was given for a corpus.
    """
    try:
        kind = storage.read_json(storage.join(uri, storage.MANIFEST)).get("kind")
    except FileNotFoundError:
        kind = None
    if kind == "corpus":
        if evaluation:
            raise ValueError(f"{uri} is a corpus: an evaluation belongs to a bundle")
        text = data_card(uri)
    elif kind == "bundle":
        card = read_card(uri)
        text = model_card(card, _results_of(card, evaluation) if evaluation else None)
    else:
        raise storage.ArtifactError(f"{uri} is neither a bundle nor a corpus: there is no card for it")
    target = storage.join(uri, FILE)
    storage.write_bytes(target, text.encode())
    return target


def bundle_files(bundle: str) -> list[str]:
    """Return the names of the files of a bundle, its card among them."""
    manifest = storage.read_json(storage.join(bundle, storage.MANIFEST))
    return [storage.MANIFEST, manifest["card"]["file"], read_card(bundle)["weights"]["file"], FILE]


def _results_of(card: Mapping[str, Any], evaluation: str) -> Results:
    """Read the results of an evaluation, which must be of the bundle with this card."""
    manifest = storage.read_manifest(evaluation, "evaluation", EVALUATION_SCHEMA)
    if manifest["parents"]["bundle"] != card["sha256"][:16]:
        raise storage.ArtifactError(f"{evaluation} is an evaluation of another bundle: run `s2v evaluate` on this one")
    results: Results = storage.read_json(storage.join(evaluation, "results.json"))
    return check_schema(results)


def _figures(results: Results) -> list[list[str]]:
    """Table of the rows that a reader compares: header and lines, mean and 95% interval."""
    rows = [row for row in SHOWN_ROWS if row in results["rows"]]
    lines = [["metric", *rows]]
    for name, metric in results["metrics"].items():
        cells = [_cell(results["rows"][row]["values"].get(name), metric["digits"]) for row in rows]
        if any(cells):
            unit = f" ({metric['unit']})" if metric["unit"] else ""
            lines.append([f"{metric['name']}{unit}", *cells])
    return lines


def _cell(value: IntervalResult | None, digits: int) -> str:
    if value is None or value["mean"] is None:
        return ""
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"


def _render(template: str, metadata: Mapping[str, Any], **values: Any) -> str:
    """Fill a template, and put the metadata in front of it as YAML."""
    source = (resources.files("s2v_ray.publishing") / "templates" / template).read_text()
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(source).render(**values)
    return f"---\n{yaml.safe_dump(dict(metadata), sort_keys=False)}---\n\n{text.strip()}\n"
