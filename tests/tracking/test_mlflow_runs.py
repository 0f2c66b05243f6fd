"""Entries of artifacts in MLflow (its file store, and a real server where one is named)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from s2v_ray.tracking.entries import Entry
from s2v_ray.tracking.mlflow_runs import PARENT_TAG, MlflowRuns


def test_an_entry_has_config_lineage_figures_and_files(mlflow_store: str, tmp_path: Path) -> None:  # noqa: ARG001  # set
    (tmp_path / "page").write_text("page")
    runs = MlflowRuns()
    parent = runs.open(Entry("run", "runs/it's a"))
    entry = Entry(
        "evaluation",
        "reports/a",
        {f"key.{i}": "v" * 600 for i in range(150)},  # more than a request may have, and longer than a value may be
        {"s2v.parent.corpus": "abc"},
        {"speech only, best of K/psnr": 21.5},
        {"report.html": str(tmp_path / "page")},
        parent="runs/it's a",
    )
    runs.publish(entry)
    run = runs.client.get_run(runs.find("reports/a"))
    assert len(run.data.params) == 150 and set(map(len, run.data.params.values())) == {500}
    assert run.data.tags["s2v.kind"] == "evaluation" and run.data.tags["s2v.parent.corpus"] == "abc"
    assert run.data.tags[PARENT_TAG] == parent
    assert run.data.metrics == {"speech only best of K/psnr": 21.5}
    assert [a.path for a in runs.client.list_artifacts(run.info.run_id)] == ["report.html"]
    assert (run.info.run_name, run.info.status) == ("a", "FINISHED")


def test_an_artifact_that_is_published_again_has_one_entry(mlflow_store: str) -> None:  # noqa: ARG001  # set
    runs = MlflowRuns()
    for value in (1.0, 2.0):
        runs.publish(Entry("sweep", "s", figures={"winner psnr": value}))
    (found,) = runs.client.search_runs([runs.client.get_experiment_by_name("s2v_ray").experiment_id])
    assert found.data.metrics == {"winner psnr": 2.0}
    assert runs.find("another") == ""


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ValueError, match=r"s2v_ray\[mlflow\]"):
        MlflowRuns()
