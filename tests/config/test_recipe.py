"""Reading recipes: overrides, errors that name the key, digests, plugins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from s2v_ray.config import Recipe, RecipeError, built_in_recipes, import_plugins, load_recipe, parse_recipe


@pytest.mark.parametrize("name", built_in_recipes())
def test_built_in_recipes_load_and_are_named_after_their_file(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_recipes_of_the_manual_are_built_in() -> None:
    assert {"debug", "puppets", "full", "grid"} <= set(built_in_recipes())


def test_a_recipe_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ndistill: {steps: 7}\n")
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.distill.steps, recipe.distill.lr) == ("mine", 7, 1e-3)


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_recipe(str(tmp_path / "empty.yaml")) == Recipe()


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().distill.steps = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("distill.steps=3", lambda r: r.distill.steps == 3),
        ("gan.discriminators.frame.weight=0.5", lambda r: r.gan.discriminators.frame.weight == 0.5),
        ("puppets.emotions=[happy, sad]", lambda r: r.puppets.emotions == ("happy", "sad")),
        ("teachers.weights=s3://bucket/a=b", lambda r: r.teachers.weights == "s3://bucket/a=b"),
        ("parallel.gpu=true", lambda r: r.parallel.gpu is True),
    ],
)
def test_overrides(override: str, expected: object) -> None:
    assert callable(expected) and expected(load_recipe("debug", [override]))


def test_a_later_override_wins_and_keeps_its_neighbours() -> None:
    recipe = load_recipe("debug", ["gan.steps=5", "gan.steps=6"])
    assert recipe.gan.steps == 6
    assert recipe.gan.generator == load_recipe("debug").gan.generator


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("distil.steps=3", r"unknown key 'distil'; did you mean 'distill'\?"),
        ("distill.step=3", r"unknown key 'distill.step'; did you mean 'distill.steps'\?"),
        (
            "gan.discriminators.frame.wieght=1",
            r"unknown key 'gan.discriminators.frame.wieght'; did you mean 'gan.discriminators.frame.weight'\?",
        ),
        ("distill.steps=many", r"distill.steps: .*valid integer.*got 'many'"),
        ("distill.steps=0", r"distill.steps: .*greater than 0, got 0"),
        ("media.size=65", r"media.size: .*32, 64, 96, 128 or 256, got 65"),
        ("ingest.val_share=1.5", r"ingest.val_share: .*less than or equal to 1"),
        ("seed.x=1", r"--set seed.x=1: seed is a value, not a section"),
        ("=1", r"--set takes a.b=c"),
        ("distill.steps", r"--set takes a.b=c"),
        ("distill.steps=[", r"not valid YAML"),
        ("gan.generator.channels=[8, 8]", r"gan.generator.channels needs 4 entries for media.size=32"),
        (
            "media.size=96",
            r"gan.generator.channels needs 5 entries for media.size=96 \(6 pixels doubled 4 times\), not 4",
        ),
        ("gan.speech_frames=2", r"gan.speech_frames must be at least gan.frames"),
        ("parallel.min_workers=2", "parallel.min_workers=2 must not exceed parallel.workers=1"),
        ("log.keep_best=beauty", "log.keep_best=beauty is no validation metric: l1, "),
        ("log.keep_best=ssim", "set log.validate_every so that it divides log.checkpoint_every"),
        ("parallel.workers=9", r"distill.batch=8 must be at least parallel.workers=9$"),
        (
            "parallel={workers: 3, accumulate: 3}",
            r"distill.batch=8 must be at least parallel.workers=3 times parallel.accumulate=3$",
        ),
        ("parallel.zero_discriminators=3", "parallel.zero_discriminators: input should be 0, 1 or 2"),
        (
            "parallel={zero_discriminators: 0, offload_optimizer: true}",
            "set parallel.zero_discriminators to 1 or higher, at 0 nothing is offloaded",
        ),
        (
            "parallel={zero_generator: 2, offload_param: true}",
            "parallel.offload_param needs parallel.zero_generator=3, not 2",
        ),
    ],
)
def test_what_does_not_fit_is_named(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe("debug", [override])
    assert "\n" not in str(caught.value) or "YAML" in str(caught.value)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(RecipeError, match=r"^mine: unknown key 'distill.stepz'.*; unknown key 'speed'"):
        parse_recipe({"speed": 1, "distill": {"stepz": 2}}, "mine")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "is not valid YAML"), ("- 1", "must be a mapping of sections, not list")]
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(str(tmp_path / "bad.yaml"))


def test_a_missing_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"no recipe at pupets; did you mean the built-in recipe 'puppets'\?"):
        load_recipe("pupets")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe at"):
        load_recipe(str(tmp_path))


def test_digest_covers_every_setting_and_nothing_else() -> None:
    recipe = load_recipe("debug")
    assert recipe.digest() == load_recipe("debug").digest()
    assert recipe.digest() == parse_recipe(recipe.model_dump(mode="json")).digest()
    assert recipe.digest() == load_recipe("debug", [f"evaluate.bootstrap={recipe.evaluate.bootstrap}"]).digest()
    assert recipe.digest() != load_recipe("debug", ["evaluate.bootstrap=51"]).digest()


def test_a_recipe_survives_yaml(tmp_path: Path) -> None:
    recipe = load_recipe("debug")
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(str(tmp_path / "whole.yaml")) == recipe


def test_every_number_says_what_it_is_or_has_a_bound() -> None:
    """Fields document themselves: a description, unless the name is a term of the field."""
    plain = {"lr", "weight_decay", "contrast_temperature", "split"}

    def undocumented(section: type[BaseModel], prefix: str = "") -> list[str]:
        found = []
        for name, info in section.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                found += undocumented(info.annotation, f"{prefix}{name}.")
            elif not info.description and name not in plain:
                found.append(prefix + name)
        return found

    assert undocumented(Recipe) == []


def test_plugins_are_imported_with_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugin.py").write_text("import sys\nsys.my_plugin_was_imported = True\n")
    (tmp_path / "recipe.yaml").write_text("plugins: [my_plugin]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "my_plugin_was_imported", False, raising=False)
    assert parse_recipe({"plugins": ["my_plugin"]}).plugins == ("my_plugin",)
    assert not sys.my_plugin_was_imported, "plain data may be of a bundle from elsewhere"
    assert load_recipe(str(tmp_path / "recipe.yaml")).plugins == ("my_plugin",)
    assert sys.my_plugin_was_imported


@pytest.mark.parametrize("plugins", ["a name", [7]])
def test_plugins_must_be_a_list_of_names(plugins: object) -> None:
    with pytest.raises(RecipeError, match="plugins must be a list of module names"):
        import_plugins(plugins)  # type: ignore[arg-type]  # what a YAML file may hold


def test_a_plugin_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(RecipeError, match="plugins: cannot import 'no_such_plugin'.*install it"):
        import_plugins(["no_such_plugin"])
