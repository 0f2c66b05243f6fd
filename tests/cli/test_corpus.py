"""Commands that make a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import fails, tree


def test_missing_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere" in fails(capsys, "ingest", tmp_path / "nowhere", tmp_path / "corpus", "--recipe", "debug")
    assert tree(tmp_path) == {}


def test_empty_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    assert "videos" in fails(capsys, "ingest", tmp_path / "videos", tmp_path / "corpus", "--recipe", "debug")
    assert tree(tmp_path) == {}


def test_no_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "there is no corpus" in fails(capsys, "teach", tmp_path / "corpus", "--recipe", "debug")
