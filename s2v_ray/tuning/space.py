"""A space: which keys of a recipe a sweep varies, how, and how its trials are judged. Knows no Ray."""

from __future__ import annotations

import difflib
import random
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from s2v_ray import storage
from s2v_ray.config import Positive, Recipe, RecipeError, Section, Share, Weight, digest
from s2v_ray.metrics import VALIDATION, Metric
from s2v_ray.training.tasks import Kind, known_alarms
from s2v_ray.tuning.parameters import (
    AnyParameter,
    Choice,
    Int,
    Params,
    Range,
    SpaceError,
    extremes,
    type_of,
    value_of,
    with_params,
)
from s2v_ray.tuning.searchers import SEARCHERS

READS = {"gan": ("gan.", "seed"), "distill": ("distill.", "student.", "seed")}
"""Prefixes of the keys that a task reads. Others change what all trials share, such as corpus and student."""
NOT_SEARCHED = {
    "gan.steps": "the steps are the cost of a trial: set them in the recipe",
    "distill.steps": "the steps are the cost of a trial: set them in the recipe",
    "gan.sync.": "the sync networks are trained by `s2v teach`, once for all trials",
    "gan.generator.reference": "train the reference baseline with `s2v train --reference`",
}
READ_EACH_STEP = (
    "gan.lr",
    "gan.reconstruction",
    "gan.mouth",
    "gan.eyes",
    "gan.ema",
    "gan.latent.",
    "gan.discriminators.",
)
"""What a run that continues from a checkpoint may change. Other keys are fixed when networks are built."""


class Ranks(Section):
    """Trials are ranked by each objective; the lowest weighted mean of ranks wins."""

    rule: Literal["ranks"]
    weights: dict[str, Weight] = Field({}, description="Weight of an objective's rank; 1 if none is given.")


class Lexicographic(Section):
    """The best by the first objective; of those nearly as good, the best by the second; and so on."""

    rule: Literal["lexicographic"]
    tolerance: float = Field(
        0.02,
        ge=0,
        description="Largest difference to the best, as a share of its absolute value, that is nearly as good.",
    )


class AshaConfig(Section):
    """Asynchronous successive halving (Li et al. 2020)."""

    grace: Share = Field(0.3, description="Share of the steps that every trial gets; the first rung.")
    reduction: float = Field(
        4.0,
        gt=1,
        description="Factor between rungs, and share of trials (1 / reduction) that continues from each.",
    )


class PbtConfig(Section):
    """Population based training (Jaderberg et al. 2017)."""

    every: Positive = Field(1, description="Validations between two comparisons of the population.")
    quantile: float = Field(
        0.25, gt=0, le=0.5, description="Share of the population that is replaced, and share that it is replaced by."
    )
    resample: Share = Field(0.2, description="Probability that a value is drawn anew rather than perturbed.")


class Space(Section):
    """The whole config of a sweep, beside the recipe."""

    name: str = Field("unnamed", description="Name of the space.")
    task: Kind = Field("gan", description="What each trial trains: gan or distill.")
    searcher: str = Field(
        "random",
        description="random; tpe (Optuna's multivariate tree of Parzen estimators over all objectives); or the name of "
        "a searcher that a plugin registers.",
    )
    scheduler: Literal["none", "asha", "pbt"] = Field(
        "none", description="What stops or changes running trials. asha and pbt compare by `metric`."
    )
    trials: Positive = Field(16, description="Number of trials; for pbt the size of the population.")
    max_concurrent: int | None = Field(
        None, gt=0, description="Largest number of concurrent trials; null: as many as fit without sharing a CPU."
    )
    validations: Positive = Field(
        10, description="Validations of a trial, evenly over its steps; a checkpoint is written with each."
    )
    seed: int = Field(0, description="Seed of all draws.")
    objectives: tuple[str, ...] = Field(min_length=1, description="Validation metrics by which trials are judged.")
    metric: str = Field("", description="The one that schedulers compare by; '': the first objective.")
    winner: Ranks | Lexicographic = Field(
        Ranks(rule="ranks"), discriminator="rule", description="Picks one of the Pareto set."
    )
    stop_on: tuple[str, ...] = Field(
        ("sync_at_chance", "identity_collapse", "emotion_collapse"), description="Alarms that stop a trial."
    )
    asha: AshaConfig = AshaConfig()
    pbt: PbtConfig = PbtConfig()
    parameters: dict[str, AnyParameter] = Field(min_length=1, description="Key of the recipe -> its distribution.")

    @field_validator("parameters")
    @classmethod
    def _conditions_first(cls, given: dict[str, AnyParameter]) -> dict[str, AnyParameter]:
        """Order by name, and after those they depend on: draws must not depend on the order in a file."""
        ordered: dict[str, AnyParameter] = {}
        left = dict(sorted(given.items()))
        while ready := [key for key, p in left.items() if p.when.keys() <= ordered.keys()]:
            ordered[ready[0]] = left.pop(ready[0])
        return ordered | left  # ``parse_space`` rejects those that are left, and names their key

    @model_validator(mode="after")
    def _names_are_known(self) -> Space:
        if unknown := [m for m in (*self.objectives, *([self.metric] if self.metric else [])) if m not in VALIDATION]:
            raise ValueError(f"unknown metric {unknown[0]!r}; validation measures {', '.join(VALIDATION)}")
        names = [a.name for a in known_alarms()]
        if unknown := [a for a in self.stop_on if a not in names]:
            raise ValueError(f"stop_on: unknown alarm {unknown[0]!r}; there are {', '.join(names)}")
        if self.searcher not in SEARCHERS:
            raise ValueError(f"unknown searcher {self.searcher!r}; known: {', '.join(SEARCHERS)}")
        if isinstance(self.winner, Ranks) and (unknown := [m for m in self.winner.weights if m not in self.objectives]):
            raise ValueError(f"winner.weights: {unknown[0]!r} is not among the objectives")
        return self

    @model_validator(mode="after")
    def _a_population_searches_by_itself(self) -> Space:
        if self.scheduler == "pbt" and self.searcher != "random":
            raise ValueError(
                "searcher must be random with scheduler pbt: all values after the first draw come from the population"
            )
        if self.scheduler == "pbt" and self.trials < 2:
            raise ValueError("trials must be at least 2 with scheduler pbt")
        return self

    @property
    def primary_metric(self) -> str:
        """The metric that schedulers compare by."""
        return self.metric or self.objectives[0]

    def digest(self) -> str:
        """Return the first 16 hex digits of the SHA-256 of the full resolved space."""
        return digest(self.model_dump(mode="json"))


def better(metric: str) -> Literal["higher", "lower"]:
    """Return which direction of a validation metric is better."""
    found: Metric = VALIDATION[metric]
    return "lower" if found.better == "lower" else "higher"


def load_space(uri: str, recipe: Recipe) -> Space:
    """Read a space and check it against the recipe that it varies.

    Raises:
        SpaceError: no such file, invalid YAML, a key or value that does not fit, or bounds that the recipe rejects.
    """
    try:
        data = yaml.safe_load(storage.read_bytes(uri).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise SpaceError(f"there is no space at {uri}: name a YAML file, such as one of tune_spaces/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise SpaceError(f"{uri} is not valid YAML: {e}") from e
    return parse_space(data, recipe, uri)


def parse_space(data: Any, recipe: Recipe, origin: str = "space") -> Space:
    """Build a space from plain data; errors as in ``load_space``."""
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
        if space.scheduler == "pbt" and key.endswith(".weight") and 0.0 in extremes(parameter, recipe):
            raise SpaceError(
                f"{origin}: {key}: must stay above 0 with scheduler pbt: a discriminator of weight 0 is not built, and "
                "cannot "
                "be added to a running trial"
            )
        earlier[key] = parameter
    return space


def trial_recipe(space: Space, recipe: Recipe, params: Params) -> Recipe:
    """Return the recipe of a trial: its values, and validations and checkpoints as often as the space says.

    All checkpoints of a population are kept, because another trial may start from any of them.
    """
    every = max(1, steps_of(space, recipe) // space.validations)
    kept = {"log.keep_checkpoints": steps_of(space, recipe) // every + 1} if space.scheduler == "pbt" else {}
    return with_params(recipe, {**params, "log.validate_every": every, "log.checkpoint_every": every, **kept})


def steps_of(space: Space, recipe: Recipe) -> int:
    """Return the number of steps of a whole trial."""
    return recipe.gan.steps if space.task == "gan" else recipe.distill.steps


def draw(space: Space, recipe: Recipe, number: int) -> Params:
    """Draw random values for trial ``number``: a function of the space's seed and the number alone."""
    rng = random.Random(f"{space.seed}-{number}")
    params: Params = {}
    for key, parameter in space.parameters.items():
        if parameter.is_active(params):
            params[key] = parameter.draw(recipe, rng)
    return params


def explore(space: Space, recipe: Recipe, params: Params, rng: random.Random) -> Params:
    """Return values near ``params``: each is perturbed, or drawn anew with probability ``pbt.resample``."""
    found: Params = {}
    for key, parameter in space.parameters.items():
        if not parameter.is_active(found):
            continue
        fresh = key not in params or rng.random() < space.pbt.resample
        found[key] = parameter.draw(recipe, rng) if fresh else parameter.perturb(params[key], recipe, rng)
    return found


def _check_key(key: str, space: Space, recipe: Recipe) -> None:
    value_of(recipe, key)
    for prefix, reason in NOT_SEARCHED.items():
        if key.startswith(prefix):
            raise SpaceError(reason)
    if not key.startswith(READS[space.task]):
        raise SpaceError(f"task {space.task} does not read it; it reads {_prefixes(READS[space.task])}")
    if space.scheduler == "pbt" and not (key.startswith(READ_EACH_STEP) and not key.endswith("discriminators.width")):
        raise SpaceError(
            f"it cannot change in a running trial, as scheduler pbt does; what can: {_prefixes(READ_EACH_STEP)}"
        )


def _prefixes(names: tuple[str, ...]) -> str:
    return ", ".join(name.rstrip(".") for name in names)


def _check_when(parameter: AnyParameter, earlier: Mapping[str, AnyParameter]) -> None:
    for key, values in parameter.when.items():
        condition = earlier.get(key)
        if not isinstance(condition, Choice):
            raise SpaceError(
                f"when: {key!r} must be another parameter, with distribution choice, that does not depend on this one"
            )
        if absent := [v for v in values if v not in condition.values]:
            known = ", ".join(map(repr, condition.values))
            raise SpaceError(f"when: {key} never is {absent[0]!r}; it is one of {known}")


def _check_values(key: str, parameter: AnyParameter, recipe: Recipe) -> None:
    if isinstance(parameter, Range):
        kind = type_of(recipe, key)
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
    for value in extremes(parameter, recipe):
        with_params(recipe, {key: value})


def _explain(error: Any) -> str:
    path = ".".join(str(p) for p in error["loc"]) or "space"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(path, Space.model_fields, 1, cutoff=0.5)
        return f"unknown key {path!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message: str = error["msg"].removeprefix("Value error, ")
    return f"{path}: {message[0].lower()}{message[1:]}" if error["loc"] else message
