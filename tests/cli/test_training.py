"""Commands that train and tune, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import fails


def test_tune_names_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "needs --space FILE" in fails(capsys, "tune", tmp_path / "corpus", tmp_path / "sweep")
    assert "there is no space at" in fails(
        capsys, "tune", tmp_path / "corpus", tmp_path / "sweep", "--space", tmp_path / "no.yaml"
    )
    (tmp_path / "space.yaml").write_text(
        "objectives: [sync]\nparameters: {gan.lr: {distribution: uniform, low: 0.001, high: fast}}\n"
    )
    assert "parameters.gan.lr.uniform.high" in fails(
        capsys, "tune", tmp_path / "corpus", tmp_path / "sweep", "--space", tmp_path / "space.yaml"
    )
    (tmp_path / "space.yaml").write_text(
        "objectives: [sync]\nparameters: {gan.lr: {distribution: uniform, low: 0.001, high: 0.01}}\n"
    )
    assert "there is no corpus at" in fails(
        capsys, "tune", tmp_path / "corpus", tmp_path / "sweep", "--space", tmp_path / "space.yaml"
    )
    assert "there is no sweep at" in fails(capsys, "tune", "report", tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()
