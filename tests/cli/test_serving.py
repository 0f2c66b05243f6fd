"""s2v export and s2v serve, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from s2v_ray import cli
from s2v_ray.cli.base import bundle_of
from s2v_ray.models.bundle import read_card
from s2v_ray.tracking.entries import TRACKERS, Entry
from tests.helpers.bundles import make_bundle
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


def test_export_registers_a_bundle_that_commands_find_by_its_alias(
    tmp_path: Path,
    generator: Path,
    mlflow_store: str,  # noqa: ARG001  # set
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "out.json"
    assert cli.main(["export", str(generator), "--register", "face@champion", "--json", str(out)]) == 0
    result = json.loads(out.read_text())["result"]
    assert (result["model"], result["version"], result["address"]) == ("face", "1", "models:/face/1")
    found = bundle_of("models:/face@champion")
    assert read_card(found)["sha256"] == read_card(str(generator / "bundle"))["sha256"]
    assert found != str(generator / "bundle")


def test_export_publishes_in_the_trackers_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[Entry] = []
    monkeypatch.setitem(TRACKERS, "mlflow", published.append)
    bundle = make_bundle(tmp_path / "bundle", "log.loggers=[mlflow]")
    assert cli.main(["export", bundle]) == 0
    assert [entry.uri for entry in published] == [bundle]
    assert (tmp_path / "bundle" / "README.md").exists(), "the card is written where there is none"
