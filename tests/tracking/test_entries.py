"""Entries of artifacts, and their publication."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from s2v_ray.tracking.entries import TRACKERS, Entry, flatten, lineage, publish


def test_nested_values_get_dotted_names() -> None:
    assert flatten({"a": 1, "b": {"c": [2, 3], "d": {"e": None}}}) == {"a": "1", "b.c": "[2, 3]", "b.d.e": "None"}


def test_lineage_has_the_digests_of_the_parents() -> None:
    found = lineage({"corpus": "abc", "sweep": {"uri": "s"}}, task="gan", reference=False)
    assert found == {"s2v.task": "gan", "s2v.reference": "False", "s2v.parent.corpus": "abc"}


@pytest.mark.parametrize(
    ("kind", "uri", "name"),
    [("run", "runs/a/", "a"), ("bundle", "s3://b/runs/a/bundle", "a/bundle"), ("sweep", "sweeps/x", "x")],
)
def test_an_entry_is_named_by_the_end_of_its_uri(kind: str, uri: str, name: str) -> None:
    assert Entry(kind, uri).name == name


def test_files_are_copied_under_their_names(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("page")
    with Entry("evaluation", "e", files={"report.html": str(tmp_path / "x.html")}).local_files() as folder:
        assert {p.name: p.read_text() for p in folder.iterdir()} == {"report.html": "page"}
    assert not folder.exists()


def test_only_trackers_get_an_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Entry] = []
    monkeypatch.setitem(TRACKERS, "mlflow", got.append)
    publish(["tensorboard", "ray", "mlflow"], Entry("sweep", "s"))
    assert got == [Entry("sweep", "s")]


def test_a_tracker_that_does_not_answer_is_reported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(entry: Entry) -> None:
        raise ConnectionError("no answer")

    got: list[Entry] = []
    monkeypatch.setitem(TRACKERS, "mlflow", refuse)
    monkeypatch.setitem(TRACKERS, "wandb", got.append)
    with caplog.at_level(logging.WARNING):
        publish(["mlflow", "wandb"], Entry("evaluation", "report"))
    assert "mlflow got no entry of the evaluation report (no answer)" in caplog.text
    assert len(got) == 1
