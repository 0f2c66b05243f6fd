"""s2v evaluate and s2v study, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import cli
from tests.helpers.commands import fails, tree


def test_a_study_needs_a_corpus_and_a_bundle(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "needs --corpus and --bundle" in fails(capsys, "study", "make", tmp_path / "study")
    assert "there is no study at" in fails(capsys, "study", "report", tmp_path / "study")
    assert cli.main(["study", "ask", str(tmp_path / "study")]) == 2
    assert tree(tmp_path) == {}


def test_evaluate_names_a_missing_corpus(capsys: pytest.CaptureFixture[str], tmp_path: Path, generator: Path) -> None:
    argv = ["evaluate", tmp_path / "corpus", tmp_path / "out", "--bundle", generator, "--recipe", "debug"]
    assert "there is no corpus at" in fails(capsys, *argv)
    assert not (tmp_path / "out").exists()
