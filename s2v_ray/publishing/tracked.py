"""Bundles and evaluations as entries of experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping

from s2v_ray import storage
from s2v_ray.config import Recipe
from s2v_ray.evaluation.results import Results
from s2v_ray.models.bundle import read_card
from s2v_ray.publishing.cards import FILE
from s2v_ray.tracking.entries import Entry, flatten, lineage


def describe_bundle(bundle: str) -> Entry:
    """Return the entry of a bundle, shown under its run: recipe, lineage, figures of the validation, card.

    Raises:
        ArtifactError: there is no bundle.
    """
    card = read_card(bundle)
    figures = {name: float(v) for name, v in card["metrics"].items() if isinstance(v, int | float)}
    tags = lineage(card["lineage"], holds=card["kind"], sha256=card["sha256"], config_digest=card["config_digest"])
    text = storage.join(bundle, FILE)
    files = {FILE: text} if storage.exists(text) else {}
    return Entry("bundle", bundle, flatten(card["recipe"]), tags, figures, files, parent=run_of(bundle))


def describe_evaluation(uri: str, results: Results, files: Mapping[str, str], recipe: Recipe) -> Entry:
    """Return the entry of an evaluation, shown under the run of its bundle: every figure, page and videos.

    Args:
        uri: of the evaluation.
        results: its results.
        files: name -> URI of what its report consists of.
        recipe: that it was made with.
    """
    parents = storage.read_json(storage.join(uri, storage.MANIFEST))["parents"]
    figures = {
        f"{row}/{metric}": interval["mean"]
        for row, result in results["rows"].items()
        for metric, interval in result["values"].items()
        if interval["mean"] is not None
    }
    bars = [bar["met"] for bar in results["bars"] if bar["met"] is not None]
    if bars:
        figures |= {"bars met": sum(bars), "bars": len(bars)}
    named = {location.rpartition("/")[2]: location for location in files.values()}
    tags = lineage(parents, bundle=results["bundle"], protocol=results["protocol"], split=results["split"])
    config = flatten(recipe.model_dump(mode="json"))
    return Entry("evaluation", uri, config, tags, figures, named, parent=run_of(results["bundle"]))


def loggers_of(bundle: str) -> list[str]:
    """Return the loggers of the recipe that a bundle was trained with. Raises as ``describe_bundle``."""
    loggers: list[str] = read_card(bundle)["recipe"]["log"]["loggers"]
    return loggers


def run_of(bundle: str) -> str:
    """Return the URI of the run that wrote a bundle, "" if the bundle is not in a run's folder."""
    run, _, name = bundle.rstrip("/").rpartition("/")
    return run if name == "bundle" else ""
