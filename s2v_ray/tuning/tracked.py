"""A sweep as an entry of experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s2v_ray.tracking.entries import Entry, flatten, lineage
from s2v_ray.tuning.trials import Sweep


def describe_sweep(sweep: Sweep, result: Mapping[str, Any] | None = None, report: str = "") -> Entry:
    """Return the entry of a sweep: space and recipe, and what it found so far.

    Args:
        sweep: the sweep.
        result: its ``summary``, or None before its first trial.
        report: URI of its report, or "".
    """
    config = flatten(sweep.space.model_dump(mode="json"), "space.") | flatten(sweep.recipe.model_dump(mode="json"))
    manifest = sweep.manifest
    digests = {name: manifest[name] for name in ("space_digest", "config_digest")}
    figures: dict[str, float] = {}
    if result is not None:
        figures = {f"trials {state}": count for state, count in result["trials"].items()}
        figures |= {"steps": result["steps"]} | {f"winner {name}": v for name, v in result.get("scores", {}).items()}
        if result["winner"] is not None:
            figures["winner"] = result["winner"]
    files = {"report.html": report} if report else {}
    return Entry("sweep", sweep.uri, config, lineage(manifest["parents"], **digests), figures, files)
