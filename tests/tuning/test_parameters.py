"""Distributions of a space, and dotted keys of a recipe."""

from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import TypeAdapter

from s2v_ray.config import RecipeError, load_recipe
from s2v_ray.tuning.parameters import (
    AnyParameter,
    Choice,
    Int,
    LogUniform,
    SpaceError,
    Uniform,
    extremes,
    leaves,
    type_of,
    value_of,
    with_params,
)

RECIPE = load_recipe("debug")  # gan.steps 12


def parameter(distribution: str, **fields: Any) -> Any:
    return TypeAdapter(AnyParameter).validate_python({"distribution": distribution, **fields})


def perturbed(made: Any, value: Any) -> set[Any]:
    return {made.perturb(value, RECIPE, random.Random(seed)) for seed in range(20)}


def test_the_distribution_selects_the_class() -> None:
    bounds = {"low": 1, "high": 2}
    assert [type(parameter(name, **bounds)) for name in ("uniform", "loguniform", "int")] == [Uniform, LogUniform, Int]
    assert type(parameter("choice", values=[1, 2])) is Choice


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distribution": "uniform", "low": 2, "high": 2}, "low must be below high, not 2 and 2"),
        ({"distribution": "uniform", "low": 0, "high": float("inf")}, "low must be below high, not 0 and inf"),
        ({"distribution": "loguniform", "low": 0, "high": 1}, "low must be above 0 for loguniform, not 0"),
        ({"distribution": "choice", "values": [1]}, "at least 2 items"),
    ],
)
def test_unusable_distributions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parameter(**fields)


def test_bounds_are_shares_of_the_named_key() -> None:
    assert parameter("uniform", low=0.25, high=0.5, of="gan.steps").bounds(RECIPE) == (3.0, 6.0)
    assert parameter("int", low=0.3, high=0.7, of="gan.steps").bounds(RECIPE) == (4, 8)  # 3.6 and 8.4, rounded
    assert parameter("uniform", low=0.25, high=0.5).bounds(RECIPE) == (0.25, 0.5)


def test_a_perturbed_value_is_multiplied_and_stays_within_the_bounds() -> None:
    assert perturbed(parameter("uniform", low=0, high=10), 4.0) == {3.2, 5.0}
    assert perturbed(parameter("uniform", low=3.5, high=4.5), 4.0) == {3.5, 4.5}
    assert perturbed(parameter("loguniform", low=1, high=10), 4.0) == {3.2, 5.0}


def test_a_perturbed_whole_number_always_changes() -> None:
    made = parameter("int", low=0, high=10)
    assert perturbed(made, 2) == {1, 3}  # 1.6 rounded down, 2.5 rounded up
    assert perturbed(made, 10) == {8, 10}  # the bound holds


def test_a_perturbed_choice_moves_to_a_neighbour() -> None:
    made = parameter("choice", values=["a", "b", "c"])
    assert perturbed(made, "b") == {"a", "c"}
    assert perturbed(made, "a") == {"a", "b"}


def test_whole_numbers_include_both_bounds() -> None:
    made = parameter("int", low=1, high=3)
    assert {made.draw(RECIPE, random.Random(seed)) for seed in range(50)} == {1, 2, 3}


def test_a_list_from_json_is_found_among_choices() -> None:
    made = parameter("choice", values=[(8, 8), (16, 8)])
    assert made.index_of([16, 8]) == made.index_of((16, 8)) == 1


def test_a_condition_compares_with_earlier_values() -> None:
    made = parameter("uniform", low=0, high=1, when={"gan.lr": [0.1, 0.2], "seed": [1]})
    assert made.is_active({"gan.lr": 0.2, "seed": 1})
    assert not made.is_active({"gan.lr": 0.2, "seed": 2})
    assert not made.is_active({"gan.lr": 0.2})
    assert parameter("uniform", low=0, high=1).is_active({})


def test_extremes_are_the_bounds_or_all_choices() -> None:
    assert extremes(parameter("int", low=0, high=0.5, of="gan.steps"), RECIPE) == (0, 6)
    assert extremes(parameter("choice", values=[4, 1, 2]), RECIPE) == (4, 1, 2)


def test_values_and_types_of_dotted_keys() -> None:
    assert value_of(RECIPE, "gan.steps") == 12
    assert type_of(RECIPE, "name") is str
    with pytest.raises(SpaceError, match="has no key 'gan.stepz'; did you mean 'gan.steps'"):
        value_of(RECIPE, "gan.stepz")
    with pytest.raises(SpaceError, match="'gan.discriminators.frame' is a section .*gan.discriminators.frame.weight"):
        value_of(RECIPE, "gan.discriminators.frame")


def test_with_params_changes_the_named_keys_only() -> None:
    changed = with_params(RECIPE, {"gan.steps": 20, "gan.discriminators.frame.interval": 3})
    assert (changed.gan.steps, changed.gan.discriminators.frame.interval) == (20, 3)
    assert with_params(changed, {"gan.steps": 12, "gan.discriminators.frame.interval": 1}) == RECIPE
    with pytest.raises(RecipeError, match="gan.steps"):
        with_params(RECIPE, {"gan.steps": 0})


def test_leaves_are_all_dotted_keys_of_values() -> None:
    found = leaves(type(RECIPE.gan), "gan.")
    assert {"gan.steps", "gan.discriminators.frame.weight", "gan.generator.channels"} <= set(found)
    assert "gan.discriminators" not in found and len(found) == len(set(found))
