"""The recipe: all sections, the checks across them, and reading it from YAML."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from s2v_ray import storage
from s2v_ray.config.base import Positive, RecipeError, Section, digest
from s2v_ray.config.data import IngestConfig, MediaConfig, PuppetsConfig
from s2v_ray.config.networks import StudentConfig
from s2v_ray.config.training import (
    DistillConfig,
    GanConfig,
    LogConfig,
    ParallelConfig,
    TeachConfig,
    TeachersConfig,
)


class EvaluateConfig(Section):
    """Evaluation of a bundle."""

    split: Literal["val", "test"] = Field("test", description="Split that is evaluated.")
    max_clips: Positive = Field(
        60, description="Largest number of clips, sampled evenly over speakers and emotions with the seed."
    )
    bootstrap: Positive = Field(1000, description="Resamples for the 95% intervals.")
    contact_clips: Positive = Field(4, description="Clips on the contact sheet.")
    best_of: int = Field(
        5, ge=2, description="K: sampled takes, and real takes, of which the best by PSNR is a row, and the diversity."
    )
    landmarks: str = Field(
        "",
        description="Card of a landmark network: a URI. Without one, the five points of ingest.detector are used if it "
        "is YuNet, and mouth and eyes are measured by brightness.",
    )
    protocol: Literal["puppets", "video", "voices", "voices_sentence"] = Field(
        "puppets",
        description="Table of bars: puppets (true mouth opening), video (real video), voices (puppets with human "
        "voices, unseen take of seen sentences) or voices_sentence (unseen sentence).",
    )


class Recipe(Section):
    """The whole config of a run."""

    name: str = Field("unnamed", description="Name of the recipe.")
    seed: int = Field(0, description="Seed of all random generators.")
    plugins: tuple[str, ...] = Field(
        (),
        description="Python modules that are imported before the recipe is used, on the driver and on every worker: "
        "they register sources, discriminators, metrics, searchers or loggers.",
    )
    media: MediaConfig = MediaConfig()
    puppets: PuppetsConfig = PuppetsConfig()
    ingest: IngestConfig = IngestConfig()
    teachers: TeachersConfig = TeachersConfig()
    teach: TeachConfig = TeachConfig()
    student: StudentConfig = StudentConfig()
    distill: DistillConfig = DistillConfig()
    gan: GanConfig = GanConfig()
    parallel: ParallelConfig = ParallelConfig()
    log: LogConfig = LogConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _generator_fits_the_frames(self) -> Recipe:
        self.gan.generator.check_size(self.media.size)
        return self

    @model_validator(mode="after")
    def _batches_reach_all_workers(self) -> Recipe:
        workers, parts = self.parallel.workers, self.parallel.accumulate
        for name, batch in (("distill.batch", self.distill.batch), ("gan.batch", self.gan.batch)):
            if batch < workers * parts:
                factor = f" times parallel.accumulate={parts}" if parts > 1 else ""
                raise ValueError(f"{name}={batch} must be at least parallel.workers={workers}{factor}")
        return self

    def with_reference(self, reference: bool) -> Recipe:
        """Copy of the recipe for the reference baseline, or for the method."""
        generator = self.gan.generator.model_copy(update={"reference": reference})
        return self.model_copy(update={"gan": self.gan.model_copy(update={"generator": generator})})

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the full resolved config."""
        return digest(self.model_dump(mode="json"))


def load_recipe(uri: str, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, a built-in name ("puppets") or the URI of a YAML file, and apply ``a.b=c`` overrides.

    Raises:
        RecipeError: no such recipe, invalid YAML, or a key or value that does not fit; the message names it.
    """
    text = _read_recipe(uri)
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as e:
        raise RecipeError(f"{uri} is not valid YAML: {e}") from e
    if not isinstance(data, dict):
        raise RecipeError(f"{uri} must be a mapping of sections, not {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    import_plugins(data.get("plugins") or ())
    return parse_recipe(data, uri)


def parse_recipe(data: dict[str, Any], origin: str = "recipe") -> Recipe:
    """Build a recipe from plain data; errors as in ``load_recipe``.

    Plugins are not imported, because the data may be of a bundle from elsewhere.
    """
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        raise RecipeError(f"{origin}: " + "; ".join(_explain(err) for err in e.errors())) from e


def import_plugins(modules: Sequence[str]) -> None:
    """Import the plugins of a recipe. Importing a module registers what it adds; a second import does nothing.

    Raises:
        RecipeError: ``modules`` is not a list of names, or a module cannot be imported.
    """
    if isinstance(modules, str) or not all(isinstance(name, str) for name in modules):
        raise RecipeError(f"plugins must be a list of module names, not {modules!r}")
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise RecipeError(
                f"plugins: cannot import {name!r} ({e}): install it, or add its folder to PYTHONPATH"
            ) from e


def built_in_recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        p.name.removesuffix(".yaml") for p in resources.files("s2v_ray.recipes").iterdir() if p.name.endswith(".yaml")
    )


def _read_recipe(uri: str) -> str:
    if uri in built_in_recipes():
        return str((resources.files("s2v_ray.recipes") / f"{uri}.yaml").read_text())
    try:
        return storage.read_bytes(uri).decode()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        near = difflib.get_close_matches(Path(uri).stem, built_in_recipes(), 1)
        hint = (
            f"; did you mean the built-in recipe {near[0]!r}?"
            if near
            else f"; built-in recipes: {', '.join(built_in_recipes())}"
        )
        raise RecipeError(f"no recipe at {uri}{hint}") from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise RecipeError(f"--set takes a.b=c, not {override!r}")
    *parents, last = key.strip().split(".")
    node = data
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise RecipeError(f"--set {override}: {parent} is a value, not a section")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as e:
        raise RecipeError(f"--set {override}: the value is not valid YAML: {e}") from e


def _explain(error: Any) -> str:
    path = ".".join(str(p) for p in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, _all_keys(Recipe), 1, cutoff=0.5)
        return f"unknown key {path!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message
    return f"{path}: {message[0].lower()}{message[1:]}, got {error['input']!r}"


def _all_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in section.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _all_keys(info.annotation, f"{prefix}{name}.")
    return keys
