"""s2v recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2v_ray import cli
from s2v_ray.config import built_in_recipes, load_recipe


def test_recipes_are_listed_and_printed_in_full(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["recipes", "--json", str(tmp_path / "all.json")]) == 0
    assert capsys.readouterr().out.split() == built_in_recipes()
    assert cli.main(["recipes", "debug", "--set", "seed=7", "--json", str(tmp_path / "one.json")]) == 0
    recipe = load_recipe("debug", ["seed=7"])
    assert capsys.readouterr().out.startswith(f"# digest {recipe.digest()}\n")
    report = json.loads((tmp_path / "one.json").read_text())
    assert report["result"] == {"recipe": recipe.model_dump(mode="json"), "digest": recipe.digest()}
    assert set(report) == {"command", "version", "recipe", "config_digest", "seconds", "artifacts", "result"}


@pytest.mark.parametrize("name", ["debug", "demo", "puppets", "grid", "full"])
def test_built_in_recipes_load(name: str) -> None:
    assert load_recipe(name).name == name
