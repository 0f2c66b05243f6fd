"""What the steps of the demo call, and which of them run again, without running any."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import call, create_autospec

import pytest

from s2v_ray import storage
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.demo import History, Step, _steps
from s2v_ray.inference.writer import GeneratedFile
from s2v_ray.training.runs import RunSpec


class Chain:
    """Three steps that only write manifests, and a record of which of them ran."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def run(self, recipe: Recipe, fail: str = "") -> list[str]:
        ran: list[str] = []

        def work(name: str) -> Callable[[], dict[str, Any]]:
            def do() -> dict[str, Any]:
                ran.append(name)
                if name == fail:
                    (self.out / name / "unfinished").mkdir(parents=True)
                    raise ValueError("stopped")
                storage.write_manifest(str(self.out / name), name, 1, seed=recipe.seed)
                return {"clips": 3, "name": name}

            return do

        history = History(str(self.out), recipe)
        for name, section in (("puppets", "puppets"), ("distill", "distill"), ("train", "gan")):
            step = Step(name, (section,), str(self.out / name), work(name))
            assert history.run(step) == {"clips": 3, "name": name}
        assert set(history.summary()) == {"puppets", "distill", "train"}
        return ran


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "demo")


def test_every_step_calls_the_function_of_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On what the earlier steps wrote. ``integration/test_chain.py`` runs these functions."""
    functions = {
        "make_puppets": "puppets.corpus",
        "ingest": "ingest.ray_pipeline",
        "teach_corpus": "teach",
        "launch": "training.launch",
        "evaluate": "evaluation.evaluate",
        "generate_file": "inference.writer",
    }
    called = {}
    for name, module in functions.items():
        called[name] = create_autospec(resolve_name(f"s2v_ray.{module}:{name}"), return_value={"from": name})
        monkeypatch.setattr(f"s2v_ray.{module}.{name}", called[name])
    called["generate_file"].return_value = GeneratedFile("video.mp4", 25, 1.0, 0.5, 2.0)
    out, recipe = str(tmp_path), load_recipe("debug")
    results = {step.name: step.work() for step in _steps(out, recipe, reference=True)}

    def at(name: str) -> str:
        return f"{out}/{name}"

    expected = {
        "make_puppets": [call(at("puppets"), recipe.puppets, recipe.seed)],
        "ingest": [call(at("puppets"), at("corpus"), recipe)],
        "teach_corpus": [call(at("corpus"), recipe)],
        "launch": [
            call(RunSpec("distill", recipe, at("corpus"), at("student"))),
            call(RunSpec("gan", recipe, at("corpus"), at("generator"), at("student/bundle"))),
            call(RunSpec("gan", recipe, at("corpus"), at("reference"), at("student/bundle"), reference=True)),
        ],
        "evaluate": [call(at("corpus"), at("evaluation"), at("generator/bundle"), recipe, at("reference/bundle"))],
        "generate_file": [call(at("generator/bundle"), at("speech.wav"), at("video.mp4"))],
    }
    assert {name: function.mock_calls for name, function in called.items()} == expected
    assert results["evaluate"] == {"from": "evaluate"}
    assert results["generate"]["speech"] == at("speech.wav") and results["generate"]["frames"] == 25
    (*_, evaluation, generation) = _steps(out, recipe, reference=False)
    evaluation.work()
    assert called["evaluate"].call_args.args[-1] is None, "no reference was asked for"
    assert generation.output is None


def test_a_second_call_runs_nothing(chain: Chain) -> None:
    recipe = load_recipe("debug")
    assert chain.run(recipe) == ["puppets", "distill", "train"]
    assert chain.run(recipe) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=5", ["puppets", "distill", "train"]),
        ("distill.lr=0.5", ["distill", "train"]),
        ("gan.lr=0.5", ["train"]),
        ("evaluate.bootstrap=7", []),
    ],
)
def test_a_change_runs_its_step_and_the_later_ones(chain: Chain, override: str, expected: list[str]) -> None:
    chain.run(load_recipe("debug"))
    (chain.out / "train" / "old").write_text("")
    assert chain.run(load_recipe("debug", [override])) == expected
    assert (chain.out / "train" / "old").exists() == ("train" not in expected), (
        "what was made from something else is removed"
    )


@pytest.mark.parametrize("damage", ["removed", "replaced"])
def test_an_artifact_that_was_changed_is_made_again(chain: Chain, damage: str) -> None:
    recipe = load_recipe("debug")
    chain.run(recipe)
    if damage == "removed":
        storage.remove(str(chain.out / "distill"))
    else:
        storage.write_manifest(str(chain.out / "distill"), "distill", 1, seed="another")
    assert chain.run(recipe)[0] == "distill"


def test_an_unfinished_step_continues(chain: Chain) -> None:
    recipe = load_recipe("debug")
    with pytest.raises(ValueError, match="stopped"):
        chain.run(recipe, fail="distill")
    assert chain.run(recipe) == ["distill", "train"]
    assert (chain.out / "distill" / "unfinished").exists()


def test_files_of_others_are_not_touched(chain: Chain) -> None:
    (chain.out / "distill").mkdir(parents=True)
    (chain.out / "distill" / "thesis.txt").write_text("mine")
    with pytest.raises(storage.ArtifactError, match="was not made by `s2v demo`"):
        chain.run(load_recipe("debug"))
    assert (chain.out / "distill" / "thesis.txt").read_text() == "mine"
    assert json.loads((chain.out / "demo.json").read_text())["steps"].keys() == {"puppets"}
