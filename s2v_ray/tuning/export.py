"""Exports the winner of a sweep as a bundle with its lineage."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, cast

from s2v_ray import storage
from s2v_ray.config import parse_recipe
from s2v_ray.models.bundle import Kind, load_bundle, read_card, save_bundle
from s2v_ray.tuning.trials import Sweep, summary


def export_best(sweep: Sweep, out: str) -> dict[str, Any]:
    """Write the winner's bundle to ``out``: the weights of its run, and a card that also describes the sweep.

    The card's lineage keeps that of the run (corpus, student or teachers, digest of the trial's recipe), and gains
    ``sweep``: URI, name, digests of space and recipe, the trial, its values, its runs (with the checkpoints they
    started from), and the trials it was chosen from.

    Returns:
        ``bundle`` (URI), ``trial``, ``scores``, ``lineage``.

    Raises:
        ArtifactError: no trial has finished, or its bundle is damaged.
    """
    found = summary(sweep, sweep.trials())
    if found["winner"] is None:
        raise storage.ArtifactError(f"no trial of the sweep {sweep.uri} has finished: `s2v tune --resume` continues it")
    source = storage.join(found["run"], "bundle")
    kind = cast(Kind, read_card(source)["kind"])
    model, card = load_bundle(source, kind)
    chosen = {
        "uri": sweep.uri,
        "name": sweep.space.name,
        "space_digest": sweep.manifest["space_digest"],
        "config_digest": sweep.manifest["config_digest"],
        "trial": found["winner"],
        "params": found["params"],
        "runs": [asdict(s) for s in sweep.segments(found["winner"])],
        "rule": sweep.space.winner.model_dump(mode="json"),
        "objectives": list(sweep.space.objectives),
        "pareto": found["pareto"],
        "trials": found["trials"],
    }
    lineage = {**card["lineage"], "sweep": chosen}
    metrics = {**card["metrics"], **found["scores"]}
    save_bundle(out, model, parse_recipe(card["recipe"]), kind, lineage, metrics, card["corpus"])
    return {"bundle": out, "trial": found["winner"], "scores": found["scores"], "lineage": lineage}
