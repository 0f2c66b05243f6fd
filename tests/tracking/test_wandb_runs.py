"""Entries of artifacts in Weights & Biases, offline."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray.tracking.entries import Entry
from s2v_ray.tracking.wandb_runs import publish_entry
from tests.helpers.wandb_file import records


def test_an_entry_has_config_figures_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "page").write_text("page")
    out = tmp_path / "report"
    out.mkdir()
    files = {"report.html": str(tmp_path / "page")}
    entry = Entry("evaluation", str(out), {"seed": "0"}, {"s2v.parent.corpus": "abc"}, {"real/psnr": 21.5}, files)
    publish_entry(entry)
    (file,) = out.glob("wandb/offline-run-*/run-*.wandb")
    found = records(file)
    (run,) = [r.run for r in found if r.HasField("run")][:1]
    assert run.job_type == "evaluation"
    assert {item.key for item in run.config.update} >= {"seed", "s2v.parent.corpus"}
    summary = {
        item.key or item.nested_key[0]: item.value_json
        for r in found
        if r.HasField("summary")
        for item in r.summary.update
    }
    assert summary["real/psnr"] == "21.5"
    artifacts = [r.request.log_artifact.artifact for r in found if r.request.HasField("log_artifact")]
    artifacts += [r.artifact for r in found if r.HasField("artifact")]
    assert [entry.path for artifact in artifacts for entry in artifact.manifest.contents] == ["report.html"]
