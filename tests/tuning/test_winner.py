"""The Pareto set and the rules, against sets worked out by hand."""

from __future__ import annotations

import pytest

from s2v_ray.tuning.space import Lexicographic, Ranks
from s2v_ray.tuning.winner import dominates, mean_ranks, pareto_set, pick, ranks

BOTH = ("sync", "realism")  # higher is better, lower is better
SCORES = {
    0: {"sync": 0.50, "realism": 0.10},
    1: {"sync": 0.49, "realism": 0.05},
    2: {"sync": 0.40, "realism": 0.05},  # 1 is as real, and better in step
    3: {"sync": 0.30, "realism": 0.01},
    4: {"sync": 0.30, "realism": 0.20},  # everybody is better
}


def test_domination_needs_one_better_and_none_worse() -> None:
    assert dominates(SCORES[1], SCORES[2], BOTH)
    assert not dominates(SCORES[2], SCORES[1], BOTH)
    assert not dominates(SCORES[0], SCORES[1], BOTH)
    assert not dominates(SCORES[0], SCORES[0], BOTH)


def test_pareto_set() -> None:
    assert pareto_set(SCORES, BOTH) == [0, 1, 3]
    assert pareto_set(SCORES, ["sync"]) == [0]
    assert pareto_set(SCORES, ["realism"]) == [3]
    assert pareto_set({7: SCORES[0], 8: SCORES[0]}, BOTH) == [7, 8], "equals do not dominate each other"


def test_ranks_share_places() -> None:
    assert ranks(SCORES, "sync") == {0: 1, 1: 2, 2: 3, 3: 4.5, 4: 4.5}
    assert ranks(SCORES, "realism") == {3: 1, 1: 2.5, 2: 2.5, 0: 4, 4: 5}


def test_weighted_ranks_pick() -> None:
    assert mean_ranks(SCORES, BOTH, {}) == {0: 2.5, 1: 2.25, 2: 2.75, 3: 2.75, 4: 4.75}
    assert pick(SCORES, BOTH, Ranks(rule="ranks")) == 1
    assert (
        pick(SCORES, BOTH, Ranks(rule="ranks", weights={"sync": 3})) == 0
    )  # (3 * 1 + 4) / 4 = 1.75 against 2.125 and 3.625
    assert pick(SCORES, BOTH, Ranks(rule="ranks", weights={"sync": 0})) == 3


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, 0), (0.025, 1), (0.5, 3)])
def test_lexicographic_takes_the_second_objective_among_those_nearly_as_good(tolerance: float, expected: int) -> None:
    assert pick(SCORES, BOTH, Lexicographic(rule="lexicographic", tolerance=tolerance)) == expected


def test_the_lower_number_wins_between_equals() -> None:
    for rule in (Ranks(rule="ranks"), Lexicographic(rule="lexicographic")):
        assert pick({8: SCORES[0], 7: SCORES[0]}, BOTH, rule) == 7
    with pytest.raises(ValueError, match="no trial to pick from"):
        pick({}, BOTH, Ranks(rule="ranks"))
