"""A space: which keys of a recipe a sweep tries, with which values, by which means. Data, read strictly; knows no Ray.

A parameter is any key of the recipe that the task reads, with a distribution: ``uniform``, ``loguniform``, ``int`` or ``choice``. ``of`` names
another key that the bounds are shares of (``of: gan.steps``), so that a space fits short recipes and long ones. ``when`` makes it
conditional: it is drawn only where other parameters took these values, and keeps the recipe's own value elsewhere.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from s2v_ray import storage
from s2v_ray.config import Positive, Recipe, RecipeError, Section, Share, Weight, digest, parse_recipe
from s2v_ray.metrics import VALIDATION, Metric
from s2v_ray.training.tasks import known_alarms

Params = dict[str, Any]
"""Key of the recipe -> value: what makes a trial."""

READS = {"gan": ("gan.", "augment.", "seed"), "distill": ("distill.", "student.", "seed")}
"""Beginnings of the keys that a task reads. Others change what all trials share: the corpus, the teachers, the student."""
NOT_SEARCHED = {
    "gan.steps": "the steps are what trials spend: set them in the recipe",
    "distill.steps": "the steps are what trials spend: set them in the recipe",
    "gan.sync.": "the sync networks are trained by `s2v teach`, once for all trials",
    "gan.generator.reference": "train the reference baseline with `s2v train --reference`",
}
READ_EACH_STEP = ("gan.lr", "gan.reconstruction", "gan.mouth", "gan.ema", "gan.discriminators.", "augment.")
"""What a run that goes on from a checkpoint may change. The rest shapes networks, or is fixed when they are built."""
PERTURBATION = (0.8, 1.25)
"""What population based training multiplies a value by (Jaderberg et al. 2017, "Population Based Training of Neural Networks": 0.8 and 1.2;
here inverse to each other, so that values do not drift downwards)."""


class SpaceError(ValueError):
    """A space that cannot be used; the message names the key and says what to do."""


class Parameter(Section):
    when: dict[str, tuple[Any, ...]] = Field(
        {}, description="Drawn only where each of these parameters has one of these values."
    )

    def is_active(self, params: Mapping[str, Any]) -> bool:
        return all(params.get(key) in values for key, values in self.when.items())


class Range(Parameter):
    low: float
    high: float
    of: str = Field("", description="Key of the recipe that low and high are shares of.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        return self

    def bounds(self, recipe: Recipe) -> tuple[float, float]:
        unit = float(value_of(recipe, self.of)) if self.of else 1.0
        return self.low * unit, self.high * unit


class Uniform(Range):
    distribution: Literal["uniform"]

    def draw(self, recipe: Recipe, rng: random.Random) -> float:
        return rng.uniform(*self.bounds(recipe))

    def perturb(self, value: float, recipe: Recipe, rng: random.Random) -> float:
        low, high = self.bounds(recipe)
        return min(max(value * rng.choice(PERTURBATION), low), high)


class LogUniform(Uniform):
    distribution: Literal["loguniform"]  # type: ignore[assignment]

    @model_validator(mode="after")
    def _positive(self) -> LogUniform:
        if self.low <= 0:
            raise ValueError(f"low must be above 0 for loguniform, not {self.low:g}")
        return self

    def draw(self, recipe: Recipe, rng: random.Random) -> float:
        low, high = self.bounds(recipe)
        return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)


class Int(Range):
    distribution: Literal["int"]

    def bounds(self, recipe: Recipe) -> tuple[int, int]:
        low, high = super().bounds(recipe)
        return round(low), round(high)

    def draw(self, recipe: Recipe, rng: random.Random) -> int:
        return rng.randint(*self.bounds(recipe))

    def perturb(self, value: int, recipe: Recipe, rng: random.Random) -> int:
        low, high = self.bounds(recipe)
        factor = rng.choice(PERTURBATION)
        moved = math.ceil(value * factor) if factor > 1 else math.floor(value * factor)  # a small number moves, too
        return min(max(moved, low), high)


class Choice(Parameter):
    distribution: Literal["choice"]
    values: tuple[Any, ...] = Field(
        min_length=2, description="In order: population based training moves to a neighbour."
    )

    def draw(self, recipe: Recipe, rng: random.Random) -> Any:
        return rng.choice(self.values)

    def perturb(self, value: Any, recipe: Recipe, rng: random.Random) -> Any:
        moved = self.values.index(value) + rng.choice((-1, 1))
        return self.values[min(max(moved, 0), len(self.values) - 1)]


AnyParameter = Annotated[Uniform | LogUniform | Int | Choice, Field(discriminator="distribution")]


class Ranks(Section):
    """Trials are ranked by each objective; the lowest weighted mean of ranks wins."""

    rule: Literal["ranks"]
    weights: dict[str, Weight] = Field({}, description="Weight of an objective's rank; 1 where none is given.")


class Lexicographic(Section):
    """The best by the first objective; of those nearly as good, the best by the second; and so on."""

    rule: Literal["lexicographic"]
    tolerance: float = Field(
        0.02, ge=0, description="Nearly as good: the difference to the best is at most this share of the best's size."
    )


class AshaConfig(Section):
    grace: Share = Field(0.3, description="Share of the steps that every trial gets; the first rung.")
    reduction: float = Field(
        4.0,
        gt=1,
        description="One of so many trials goes on from each rung, which is so many times as far as the one before.",
    )


class PbtConfig(Section):
    every: Positive = Field(1, description="Validations between one look at the population and the next.")
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="Share of the population that is replaced, and share that it is replaced by."
    )
    resample: Share = Field(0.2, description="Probability that a value is drawn afresh rather than perturbed.")


class Space(Section):
    """A whole sweep's config, beside the recipe."""

    name: str = "unnamed"
    task: Literal["gan", "distill"] = Field("gan", description="What each trial trains.")
    searcher: Literal["random", "tpe"] = Field(
        "random", description="tpe: Optuna's multivariate tree of Parzen estimators, over all objectives."
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "none", description="What ends or changes trials in mid-run. Both compare by `lead`."
    )
    trials: Positive = Field(16, description="Trials in all; for pbt the size of the population.")
    at_once: int | None = Field(None, gt=0, description="Trials at a time; None: as many as fit without sharing a CPU.")
    validations: Positive = Field(
        10, description="Validations of a trial, evenly over its steps; a checkpoint is written with each."
    )
    seed: int = 0
    objectives: tuple[str, ...] = Field(
        min_length=1, description="Figures of the validation, by which trials are judged."
    )
    lead: str = Field("", description="The one that schedulers compare by; the first where none is given.")
    winner: Ranks | Lexicographic = Field(
        Ranks(rule="ranks"), discriminator="rule", description="Picks one of the Pareto set."
    )
    stop_on: tuple[str, ...] = Field(
        ("sync_at_chance", "identity_collapse", "emotion_collapse"), description="Alarms by which a trial is dead."
    )
    asha: AshaConfig = AshaConfig()
    pbt: PbtConfig = PbtConfig()
    parameters: dict[str, AnyParameter] = Field(min_length=1)

    @field_validator("parameters")
    @classmethod
    def _conditions_first(cls, given: dict[str, AnyParameter]) -> dict[str, AnyParameter]:
        """By name, and after those they depend on: what is drawn must not depend on the order in a file, which a manifest does not keep."""
        ordered: dict[str, AnyParameter] = {}
        left = dict(sorted(given.items()))
        while ready := [key for key, p in left.items() if p.when.keys() <= ordered.keys()]:
            ordered[ready[0]] = left.pop(ready[0])
        return ordered | left  # what is left is refused with its key named, by ``parse_space``

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        if unknown := [m for m in (*self.objectives, *([self.lead] if self.lead else [])) if m not in VALIDATION]:
            raise ValueError(f"unknown figure {unknown[0]!r}; validation measures {', '.join(VALIDATION)}")
        names = [a.name for a in known_alarms()]
        if unknown := [a for a in self.stop_on if a not in names]:
            raise ValueError(f"stop_on: unknown alarm {unknown[0]!r}; there are {', '.join(names)}")
        if isinstance(self.winner, Ranks) and (unknown := [m for m in self.winner.weights if m not in self.objectives]):
            raise ValueError(f"winner.weights: {unknown[0]!r} is not among the objectives")
        if self.scheduler == "pbt" and self.searcher != "random":
            raise ValueError(
                "searcher must be random with scheduler pbt: what follows the first draw comes from the population"
            )
        if self.scheduler == "pbt" and self.trials < 2:
            raise ValueError("trials must be at least 2 with scheduler pbt")
        return self

    @property
    def leading(self) -> str:
        return self.lead or self.objectives[0]

    def digest(self) -> str:
        """SHA-256 (first 16 hex digits) of the full resolved space."""
        return digest(self.model_dump(mode="json"))


def better(metric: str) -> Literal["higher", "lower"]:
    """Which way a figure of the validation is better."""
    found: Metric = VALIDATION[metric]
    return "lower" if found.better == "lower" else "higher"


def load_space(uri: str, recipe: Recipe) -> Space:
    """Reads a space and checks it against the recipe it will vary.

    Raises:
        SpaceError: no such file, bad YAML, a key or value that does not fit, or bounds that the recipe's types refuse.
    """
    try:
        data = yaml.safe_load(storage.read_bytes(uri).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise SpaceError(f"there is no space at {uri}: name a YAML file, such as one of tune_spaces/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise SpaceError(f"{uri} is not valid YAML: {e}") from e
    return parse_space(data, recipe, uri)


def parse_space(data: Any, recipe: Recipe, origin: str = "space") -> Space:
    """Builds a space from plain data; errors as in ``load_space``."""
    try:
        space = Space.model_validate(data)
    except ValidationError as e:
        raise SpaceError(f"{origin}: " + "; ".join(_explain(err) for err in e.errors())) from e
    earlier: dict[str, AnyParameter] = {}
    for key, parameter in space.parameters.items():
        try:
            _check_key(key, space, recipe)
            _check_when(parameter, earlier)
            _check_values(key, parameter, recipe)
        except (SpaceError, RecipeError) as e:
            raise SpaceError(f"{origin}: {key}: {e}") from None
        if space.scheduler == "pbt" and key.endswith(".weight") and 0.0 in _extremes(parameter, recipe):
            raise SpaceError(
                f"{origin}: {key}: must stay above 0 with scheduler pbt: a discriminator of weight 0 is not built, and cannot join in mid-run"
            )
        earlier[key] = parameter
    return space


def value_of(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key.

    Raises:
        SpaceError: there is none; the message names the nearest.
    """
    node: Any = recipe
    for part in key.split("."):
        if not isinstance(node, BaseModel) or part not in type(node).model_fields:
            near = difflib.get_close_matches(key, _leaves(Recipe), 1, cutoff=0.5)
            raise SpaceError(f"the recipe has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        node = getattr(node, part)
    if isinstance(node, BaseModel):
        raise SpaceError(
            f"{key!r} is a section of the recipe, not a value: name one of {', '.join(f'{key}.{f}' for f in type(node).model_fields)}"
        )
    return node


def with_params(recipe: Recipe, params: Params) -> Recipe:
    """The recipe with these values.

    Raises:
        RecipeError: they do not fit, each alone or together.
    """
    data = recipe.model_dump(mode="json")
    for key, value in params.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            node = node[part]
        node[last] = value
    return parse_recipe(data, "trial")


def trial_recipe(space: Space, recipe: Recipe, params: Params) -> Recipe:
    """The recipe of a trial: its values, validated and checkpointed as often as the space says.

    A population's checkpoints are all kept, because another trial may begin from any of them.
    """
    every = max(1, steps_of(space, recipe) // space.validations)
    kept = {"log.keep_checkpoints": steps_of(space, recipe) // every + 1} if space.scheduler == "pbt" else {}
    return with_params(recipe, {**params, "log.validate_every": every, "log.checkpoint_every": every, **kept})


def steps_of(space: Space, recipe: Recipe) -> int:
    """Steps of a whole trial."""
    return recipe.gan.steps if space.task == "gan" else recipe.distill.steps


def draw(space: Space, recipe: Recipe, number: int) -> Params:
    """Random values for trial ``number``: a function of the space's seed and the number alone."""
    rng = random.Random(f"{space.seed}-{number}")
    params: Params = {}
    for key, parameter in space.parameters.items():
        if parameter.is_active(params):
            params[key] = parameter.draw(recipe, rng)
    return params


def explore(space: Space, recipe: Recipe, params: Params, rng: random.Random) -> Params:
    """Values near ``params``: each perturbed within its bounds, or now and then drawn afresh."""
    found: Params = {}
    for key, parameter in space.parameters.items():
        if not parameter.is_active(found):
            continue
        fresh = key not in params or rng.random() < space.pbt.resample
        found[key] = parameter.draw(recipe, rng) if fresh else parameter.perturb(params[key], recipe, rng)
    return found


def _check_key(key: str, space: Space, recipe: Recipe) -> None:
    value_of(recipe, key)
    for beginning, reason in NOT_SEARCHED.items():
        if key.startswith(beginning):
            raise SpaceError(reason)
    if not key.startswith(READS[space.task]):
        raise SpaceError(
            f"task {space.task} does not read it; it reads {', '.join(b.rstrip('.') for b in READS[space.task])}"
        )
    if space.scheduler == "pbt" and not (key.startswith(READ_EACH_STEP) and not key.endswith("discriminators.width")):
        raise SpaceError(
            f"it cannot change in mid-run, as scheduler pbt does; what can: {', '.join(b.rstrip('.') for b in READ_EACH_STEP)}"
        )


def _check_when(parameter: AnyParameter, earlier: Mapping[str, AnyParameter]) -> None:
    for key, values in parameter.when.items():
        condition = earlier.get(key)
        if not isinstance(condition, Choice):
            raise SpaceError(
                f"when: {key!r} must be another parameter, with distribution choice, that does not depend on this one"
            )
        if absent := [v for v in values if v not in condition.values]:
            raise SpaceError(
                f"when: {key} never is {absent[0]!r}; it is one of {', '.join(map(repr, condition.values))}"
            )


def _check_values(key: str, parameter: AnyParameter, recipe: Recipe) -> None:
    """Bounds and choices against the types of the recipe: by building the recipe with each."""
    if isinstance(parameter, Range):
        kind = _annotation(key)
        if kind not in (int, float):
            raise SpaceError(f"takes {kind}, not a range of numbers: use distribution choice")
        if kind is int and not isinstance(parameter, Int):
            raise SpaceError("is a whole number: use distribution int")
        unit = value_of(recipe, parameter.of) if parameter.of else 1
        if isinstance(unit, bool) or not isinstance(unit, int | float):
            raise SpaceError(f"of: {parameter.of} is not a number")
        low, high = parameter.bounds(recipe)
        if not low < high:
            raise SpaceError(f"low and high are both {low:g} with this recipe")
    for value in _extremes(parameter, recipe):
        with_params(recipe, {key: value})


def _extremes(parameter: AnyParameter, recipe: Recipe) -> tuple[Any, ...]:
    return parameter.values if isinstance(parameter, Choice) else parameter.bounds(recipe)


def _annotation(key: str) -> Any:
    node: Any = Recipe
    for part in key.split("."):
        node = node.model_fields[part].annotation
    return node


def _leaves(section: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in section.model_fields.items():
        inner = isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        keys += _leaves(info.annotation, f"{prefix}{name}.") if inner else [prefix + name]  # type: ignore[arg-type]
    return keys


def _explain(error: Any) -> str:
    path = ".".join(str(p) for p in error["loc"]) or "space"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, Space.model_fields, 1, cutoff=0.5)
        return f"unknown key {path!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}" if error["loc"] else message
