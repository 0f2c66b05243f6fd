"""Parameters of a space: keys of a recipe with a distribution.

A parameter is any key of the recipe that the task reads, with a distribution: ``uniform``, ``loguniform``, ``int`` or
``choice``. ``of`` names another key; the bounds are then shares of its value (``of: gan.steps``), so that a space fits
short and long recipes. ``when`` makes a parameter conditional: it is drawn only if other parameters have given values,
and otherwise keeps the recipe's own value.
"""

from __future__ import annotations

import difflib
import math
import random
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from s2v_ray.config import Recipe, Section, parse_recipe

Params = dict[str, Any]
"""Key of the recipe -> value: what defines a trial."""

PERTURBATION = (0.8, 1.25)
"""Factors of population based training. Jaderberg et al. 2017 use 0.8 and 1.2; these are inverse to each other, so that
values do not drift downwards."""


class SpaceError(ValueError):
    """A space that cannot be used; the message names the key and what to do."""


class Parameter(Section):
    """What all distributions share."""

    when: dict[str, tuple[Any, ...]] = Field(
        {}, description="Drawn only if each of these parameters has one of these values."
    )

    def is_active(self, params: Mapping[str, Any]) -> bool:
        """Whether the parameter is drawn, given the values of earlier ones."""
        return all(params.get(key) in values for key, values in self.when.items())


class Range(Parameter):
    """A range of numbers."""

    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    of: str = Field("", description="Key of the recipe; low and high are then shares of its value.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, not {self.low:g} and {self.high:g}")
        return self

    def bounds(self, recipe: Recipe) -> tuple[float, float]:
        """Return the smallest and largest value for a recipe."""
        unit = float(value_of(recipe, self.of)) if self.of else 1.0
        return self.low * unit, self.high * unit


class Uniform(Range):
    """Uniform on a range."""

    distribution: Literal["uniform"]

    def draw(self, recipe: Recipe, rng: random.Random) -> float:
        """Draw a value."""
        return rng.uniform(*self.bounds(recipe))

    def perturb(self, value: float, recipe: Recipe, rng: random.Random) -> float:
        """Multiply a value by a factor of ``PERTURBATION``, within the bounds."""
        low, high = self.bounds(recipe)
        return min(max(value * rng.choice(PERTURBATION), low), high)


class LogUniform(Uniform):
    """Uniform in the logarithm."""

    distribution: Literal["loguniform"]  # type: ignore[assignment]  # the discriminator of the union

    @model_validator(mode="after")
    def _positive(self) -> LogUniform:
        if self.low <= 0:
            raise ValueError(f"low must be above 0 for loguniform, not {self.low:g}")
        return self

    def draw(self, recipe: Recipe, rng: random.Random) -> float:
        """Draw a value."""
        low, high = self.bounds(recipe)
        return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)


class Int(Range):
    """Uniform on the whole numbers of a range, bounds included."""

    distribution: Literal["int"]

    def bounds(self, recipe: Recipe) -> tuple[int, int]:
        """Return the smallest and largest value for a recipe."""
        low, high = super().bounds(recipe)
        return round(low), round(high)

    def draw(self, recipe: Recipe, rng: random.Random) -> int:
        """Draw a value."""
        return rng.randint(*self.bounds(recipe))

    def perturb(self, value: int, recipe: Recipe, rng: random.Random) -> int:
        """Multiply a value by a factor of ``PERTURBATION``, rounded away from it, within the bounds."""
        low, high = self.bounds(recipe)
        factor = rng.choice(PERTURBATION)
        moved = math.ceil(value * factor) if factor > 1 else math.floor(value * factor)
        return min(max(moved, low), high)


class Choice(Parameter):
    """One of a list of values."""

    distribution: Literal["choice"]
    values: tuple[Any, ...] = Field(
        min_length=2, description="In order: population based training moves to a neighbour."
    )

    def draw(self, recipe: Recipe, rng: random.Random) -> Any:  # noqa: ARG002  # same signature as the others
        """Draw a value."""
        return rng.choice(self.values)

    def perturb(self, value: Any, recipe: Recipe, rng: random.Random) -> Any:  # noqa: ARG002  # same signature
        """Move to a neighbouring value."""
        moved = self.values.index(value) + rng.choice((-1, 1))
        return self.values[min(max(moved, 0), len(self.values) - 1)]

    def index_of(self, value: Any) -> int:
        """Return the position of a value; lists of JSON are compared as tuples."""
        return self.values.index(tuple(value) if isinstance(value, list) else value)


AnyParameter = Annotated[Uniform | LogUniform | Int | Choice, Field(discriminator="distribution")]


def extremes(parameter: AnyParameter, recipe: Recipe) -> tuple[Any, ...]:
    """Return the values between which all others lie: the bounds, or all choices."""
    return parameter.values if isinstance(parameter, Choice) else parameter.bounds(recipe)


def value_of(recipe: Recipe, key: str) -> Any:
    """Return the value of a dotted key.

    Raises:
        SpaceError: there is no such key; the message names the most similar one.
    """
    node: Any = recipe
    for part in key.split("."):
        if isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, BaseModel) and part in type(node).model_fields:
            node = getattr(node, part)
        else:
            near = difflib.get_close_matches(key, leaves(Recipe), 1, cutoff=0.5)
            raise SpaceError(f"the recipe has no key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    if isinstance(node, BaseModel):
        names = ", ".join(f"{key}.{name}" for name in type(node).model_fields)
        raise SpaceError(f"{key!r} is a section of the recipe, not a value: name one of {names}")
    return node


def type_of(recipe: Recipe, key: str) -> Any:
    """Return the annotated type of a dotted key that exists."""
    *parents, last = key.split(".")
    node: Any = recipe
    for part in parents:
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    return type(node).model_fields[last].annotation


def with_params(recipe: Recipe, params: Params) -> Recipe:
    """Return the recipe with other values.

    Raises:
        RecipeError: a value, or their combination, does not fit.
    """
    data = recipe.model_dump(mode="json")
    for key, value in params.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            node = node[part]
        node[last] = value
    return parse_recipe(data, "trial")


def leaves(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of all values of a section."""
    keys: list[str] = []
    for name, info in section.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += leaves(inner, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys
