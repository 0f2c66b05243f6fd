"""Spaces: what is read, what is refused and in which words, and what is drawn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from s2v_ray.config import load_recipe
from s2v_ray.tuning.parameters import SpaceError, with_params
from s2v_ray.tuning.space import draw, explore, load_space, parse_space, trial_recipe

RECIPE = load_recipe("debug")  # gan.steps 12
SHIPPED = sorted((Path(__file__).parents[2] / "tune_spaces").glob("*.yaml"))
LR = {"distribution": "loguniform", "low": 0.001, "high": 0.01}


def space(**fields: Any) -> dict[str, Any]:
    return {"objectives": ["l1"], "parameters": {"gan.lr": LR}, **fields}


def one(key: str, **parameter: Any) -> dict[str, Any]:
    return space(parameters={key: parameter})


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
@pytest.mark.parametrize("recipe", ["debug", "puppets"])
def test_shipped_spaces_fit_recipes_short_and_long(file: Path, recipe: str) -> None:
    base = load_recipe(recipe)
    found = load_space(str(file), base)
    for number in range(20):
        trial_recipe(found, base, draw(found, base, number))


def test_spaces_are_shipped() -> None:
    assert {f.stem for f in SHIPPED} >= {
        "loss_weights",
        "discriminator_schedules",
        "distillation",
        "smoke",
        "smoke_pbt",
    }


def test_discriminator_schedules_have_all_five_settings_of_each() -> None:
    keys = set(load_space(str(next(f for f in SHIPPED if f.stem == "discriminator_schedules")), RECIPE).parameters)
    for name in ("frame", "mouth", "motion", "sync", "emotion"):
        assert {f"gan.discriminators.{name}.{s}" for s in ("start", "ramp", "weight", "interval", "lr")} <= keys


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (one("gan.lrr", **LR), "gan.lrr: the recipe has no key 'gan.lrr'; did you mean 'gan.lr'"),
        (one("gan.discriminators", **LR), "is a section of the recipe, not a value"),
        (
            one("gan.lr", distribution="uniform", low=-1.0, high=1.0),
            "gan.lr: trial: gan.lr: input should be greater than 0, got -1.0",
        ),
        (one("gan.batch", distribution="uniform", low=1, high=8), "gan.batch: is a whole number: use distribution int"),
        (one("gan.generator.channels", distribution="uniform", low=1, high=8), "use distribution choice"),
        (one("gan.generator.reference", distribution="choice", values=[True, False]), "s2v train --reference"),
        (
            one("gan.discriminators.frame.interval", distribution="choice", values=[1, 0]),
            "frame.interval: input should be greater than 0, got 0",
        ),
        (one("gan.frames", distribution="int", low=3, high=99), "gan.speech_frames must be at least gan.frames"),
        (one("gan.steps", distribution="int", low=1, high=9), "set them in the recipe"),
        (
            one("media.size", distribution="choice", values=[32, 64]),
            "task gan does not read it; it reads gan, seed",
        ),
        (one("distill.lr", **LR), "task gan does not read it"),
        (one("gan.lr", distribution="uniform", low=0.1, high=0.1), "low must be below high, not 0.1 and 0.1"),
        (one("gan.lr", distribution="loguniform", low=0.0, high=0.1), "low must be above 0 for loguniform"),
        (one("gan.lr", distribution="normal", low=0.0, high=0.1), "'uniform', 'loguniform', 'int', 'choice'"),
        (
            one("gan.discriminators.frame.start", distribution="int", low=0.0, high=0.01, of="gan.steps"),
            "low and high are both 0 with this recipe",
        ),
        (
            one("gan.discriminators.frame.start", distribution="int", low=0.0, high=0.5, of="name"),
            "of: name is not a number",
        ),
        (space(scheduler="asha", rungs=3), "unknown key 'rungs'"),
        (space(objektives=["l1"]), "did you mean 'objectives'?"),
        (space(objectives=["beauty"]), "unknown metric 'beauty'; validation measures l1, mouth_l1"),
        (space(objectives=[]), "objectives"),
        (space(stop_on=["boredom"]), "unknown alarm 'boredom'"),
        (space(winner={"rule": "ranks", "weights": {"psnr": 1}}), "'psnr' is not among the objectives"),
        (space(scheduler="pbt", searcher="tpe"), "searcher must be random with scheduler pbt"),
        (
            space(scheduler="pbt", parameters={"gan.batch": {"distribution": "choice", "values": [4, 8]}}),
            "cannot change in a running trial",
        ),
        (
            space(
                scheduler="pbt",
                parameters={"gan.discriminators.frame.weight": {"distribution": "uniform", "low": 0, "high": 1}},
            ),
            "must stay above 0 with scheduler pbt",
        ),
        (
            space(parameters={"gan.lr": {**LR, "when": {"gan.mouth": [1]}}}),
            "'gan.mouth' must be another parameter, with distribution choice",
        ),
        (
            space(
                parameters={
                    "gan.mouth": {"distribution": "choice", "values": [1, 2]},
                    "gan.lr": {**LR, "when": {"gan.mouth": [3]}},
                }
            ),
            "gan.mouth never is 3; it is one of 1, 2",
        ),
    ],
)
def test_what_does_not_fit_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError) as error:
        parse_space(data, RECIPE, "x.yaml")
    assert str(error.value).startswith("x.yaml: ") and message in str(error.value)


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="there is no space at"):
        load_space(str(tmp_path / "no.yaml"), RECIPE)
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(SpaceError, match="not valid YAML"):
        load_space(str(tmp_path / "bad.yaml"), RECIPE)


def test_bounds_that_are_shares_follow_the_recipe() -> None:
    start = {"distribution": "int", "low": 0.25, "high": 0.5, "of": "gan.steps"}
    found = parse_space(space(parameters={"gan.discriminators.frame.start": start}), RECIPE)
    values = [draw(found, RECIPE, n)["gan.discriminators.frame.start"] for n in range(100)]
    assert set(values) == {3, 4, 5, 6}
    longer = with_params(RECIPE, {"gan.steps": 1200})
    assert all(300 <= draw(found, longer, n)["gan.discriminators.frame.start"] <= 600 for n in range(100))


def test_a_condition_leaves_the_recipes_own_value() -> None:
    parameters = {
        "gan.discriminators.sync.lr": {"distribution": "choice", "values": [0.0, 0.0001]},
        "gan.discriminators.sync.interval": {
            "distribution": "choice",
            "values": [2, 4],
            "when": {"gan.discriminators.sync.lr": [0.0001]},
        },
    }
    found = parse_space(space(parameters=parameters), RECIPE)
    drawn = [draw(found, RECIPE, n) for n in range(50)]
    for params in drawn:
        assert ("gan.discriminators.sync.interval" in params) == (params["gan.discriminators.sync.lr"] > 0)
        assert trial_recipe(found, RECIPE, params).gan.discriminators.sync.interval == params.get(
            "gan.discriminators.sync.interval", 1
        )
    assert 5 < sum(len(p) == 2 for p in drawn) < 45


def test_neither_draws_nor_conditions_depend_on_the_order_in_a_file() -> None:
    lr = {"distribution": "choice", "values": [0.0, 0.0001]}
    interval = {"distribution": "choice", "values": [2, 4], "when": {"gan.discriminators.sync.lr": [0.0001]}}
    one, other = (
        parse_space(space(parameters=dict(order)), RECIPE)
        for order in (
            [("gan.lr", LR), ("gan.discriminators.sync.interval", interval), ("gan.discriminators.sync.lr", lr)],
            [("gan.discriminators.sync.lr", lr), ("gan.discriminators.sync.interval", interval), ("gan.lr", LR)],
        )
    )
    assert list(one.parameters) == ["gan.discriminators.sync.lr", "gan.discriminators.sync.interval", "gan.lr"]
    assert one.digest() == other.digest() and [draw(one, RECIPE, n) for n in range(9)] == [
        draw(other, RECIPE, n) for n in range(9)
    ]
    circle = {**lr, "when": {"gan.discriminators.sync.interval": [2]}}
    with pytest.raises(SpaceError, match="that does not depend on this one"):
        parse_space(
            space(parameters={"gan.discriminators.sync.lr": circle, "gan.discriminators.sync.interval": interval}),
            RECIPE,
        )


def test_the_same_number_draws_the_same_values_and_others_draw_others() -> None:
    found = parse_space(space(), RECIPE)
    assert draw(found, RECIPE, 7) == draw(found, RECIPE, 7)
    assert len({draw(found, RECIPE, n)["gan.lr"] for n in range(50)}) == 50
    assert draw(parse_space(space(seed=1), RECIPE), RECIPE, 7) != draw(found, RECIPE, 7)
    values = sorted(draw(found, RECIPE, n)["gan.lr"] for n in range(400))
    assert values[0] >= 0.001 and values[-1] <= 0.01
    assert values[200] == pytest.approx(0.001 * 10**0.5, rel=0.15)  # the median of a log-uniform distribution


def test_exploring_moves_every_value_and_keeps_to_the_bounds() -> None:
    parameters = {
        "gan.lr": LR,
        "gan.discriminators.frame.start": {"distribution": "int", "low": 0, "high": 10},
        "gan.discriminators.frame.interval": {"distribution": "choice", "values": [1, 2, 4]},
    }
    found = parse_space(space(scheduler="pbt", pbt={"resample": 0.0}, parameters=parameters), RECIPE)
    old = {"gan.lr": 0.004, "gan.discriminators.frame.start": 4, "gan.discriminators.frame.interval": 2}
    seen = [explore(found, RECIPE, old, random.Random(i)) for i in range(60)]
    assert sorted({round(p["gan.lr"], 9) for p in seen}) == [0.0032, 0.005]
    assert {p["gan.discriminators.frame.start"] for p in seen} == {3, 5}
    assert {p["gan.discriminators.frame.interval"] for p in seen} == {1, 4}
    edge = {"gan.lr": 0.01, "gan.discriminators.frame.start": 10, "gan.discriminators.frame.interval": 4}
    assert max(explore(found, RECIPE, edge, random.Random(i))["gan.lr"] for i in range(20)) == 0.01
    afresh = parse_space(space(scheduler="pbt", pbt={"resample": 1.0}, parameters=parameters), RECIPE)
    assert len({explore(afresh, RECIPE, old, random.Random(i))["gan.lr"] for i in range(20)}) == 20


def test_a_trials_recipe_validates_and_checkpoints_evenly() -> None:
    log = trial_recipe(parse_space(space(validations=4), RECIPE), RECIPE, {"gan.lr": 0.002}).log
    assert (log.validate_every, log.checkpoint_every, log.keep_checkpoints) == (3, 3, RECIPE.log.keep_checkpoints)
    population = parse_space(space(validations=4, scheduler="pbt"), RECIPE)
    assert trial_recipe(population, RECIPE, {}).log.keep_checkpoints == 5, "another trial may begin from any"
