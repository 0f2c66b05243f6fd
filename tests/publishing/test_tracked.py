"""Bundles and evaluations as entries of experiment trackers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from s2v_ray import storage
from s2v_ray.evaluation.results import EVALUATION_SCHEMA
from s2v_ray.publishing.cards import write_card
from s2v_ray.publishing.tracked import describe_bundle, describe_evaluation, loggers_of
from tests.helpers.bundles import make_bundle
from tests.helpers.recipes import debug_recipe


def test_the_entry_of_a_bundle_has_recipe_lineage_and_card(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "run" / "bundle", "gan.lr=0.5", "log.loggers=[mlflow]")
    assert describe_bundle(bundle).files == {}
    write_card(bundle)
    entry = describe_bundle(bundle)
    assert entry.config["gan.lr"] == "0.5" and entry.tags["s2v.holds"] == "speech2video"
    assert len(entry.tags["s2v.sha256"]) == 64
    assert entry.files == {"README.md": f"{bundle}/README.md"}
    assert (entry.kind, entry.parent) == ("bundle", str(tmp_path / "run"))
    assert describe_bundle(make_bundle(tmp_path / "copied")).parent == ""
    assert loggers_of(bundle) == ["mlflow"]


def test_the_entry_of_an_evaluation_has_every_figure_and_file(tmp_path: Path) -> None:
    out = str(tmp_path / "report")
    parents = {"corpus": "abc", "bundle": "def"}
    storage.write_manifest(out, "evaluation", EVALUATION_SCHEMA, config_digest="c", parents=parents)
    interval = {"mean": 21.5, "low": 20.0, "high": 23.0, "clips": 4}
    results: Any = {
        "rows": {
            "real clips": {"values": {"psnr": {**interval, "mean": None}}},
            "speech only": {"values": {"psnr": interval}},
        },
        "bars": [{"met": True}, {"met": False}, {"met": None}],
        "bundle": "runs/a/bundle",
        "protocol": "video",
        "split": "test",
    }
    files = {"sample": f"{out}/sample.mp4", "report": f"{out}/report.html"}
    entry = describe_evaluation(out, results, files, debug_recipe())
    assert entry.figures == {"speech only/psnr": 21.5, "bars met": 1, "bars": 2}
    assert entry.files == {"sample.mp4": f"{out}/sample.mp4", "report.html": f"{out}/report.html"}
    assert entry.tags["s2v.parent.corpus"] == "abc" and entry.tags["s2v.bundle"] == "runs/a/bundle"
    assert (entry.kind, entry.parent, entry.config["name"]) == ("evaluation", "runs/a", "debug")
