from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from s2v_ray.config import Recipe
from s2v_ray.tuning.parameters import Params
from s2v_ray.tuning.search import suggest
from s2v_ray.tuning.searchers import SEARCHERS, register_searcher
from s2v_ray.tuning.space import Space
from s2v_ray.tuning.trials import Trial
from tests.helpers.sweeps import make_sweep


def test_the_searchers_of_the_package_are_registered() -> None:
    assert {"random", "tpe"} <= set(SEARCHERS)


def test_a_registered_searcher_is_selected_by_the_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(space: Space, recipe: Recipe, trials: Sequence[Trial], number: int) -> Params:
        return {"gan.lr": 0.001 * (len(trials) + number)}

    monkeypatch.setitem(SEARCHERS, "constant", None)  # so that it is removed after the test
    assert register_searcher("constant")(constant) is constant
    sweep = make_sweep(str(tmp_path), searcher="constant")
    assert suggest(sweep.space, sweep.recipe, [Trial(0, {}), Trial(1, {})], 5) == {"gan.lr": pytest.approx(0.007)}


def test_an_unknown_searcher_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown searcher 'grid'; known: .*random.*tpe"):
        make_sweep(str(tmp_path), searcher="grid")
