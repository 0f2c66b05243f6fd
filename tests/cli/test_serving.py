"""s2v export and s2v serve, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from s2v_ray import cli
from tests.helpers.commands import fails


def test_export_names_what_it_needs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "takes a bundle, or --best SWEEP with -o BUNDLE" in fails(capsys, "export", "--best", tmp_path / "sweep")
    assert "there is no sweep at" in fails(capsys, "export", "--best", tmp_path / "sweep", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_writes_the_config_of_an_endpoint(tmp_path: Path, generator: Path) -> None:
    argv = ["export", str(generator), "--replicas", "1", "3", "--more", f"other={generator}", "--token-env", "TOKEN"]
    assert cli.main([*argv, "--json", str(tmp_path / "out.json")]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["artifacts"]["bundle"] == str(generator / "bundle")
    config = yaml.safe_load(Path(report["result"]["serve"]).read_text())
    args = config["applications"][0]["args"]
    assert args["bundle"] == str(generator / "bundle") and args["bundles"] == {"other": str(generator / "bundle")}
    assert args["replicas"] == [1, 3] and args["token_env"] == "TOKEN"
