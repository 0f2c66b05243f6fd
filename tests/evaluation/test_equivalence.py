"""Two one-sided tests and their power, against exact binomial sums and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from s2v_ray.evaluation.equivalence import answers_needed, equivalence_of


def tail(successes: int, count: int, share: float) -> float:
    """P(X >= successes) of a binomial distribution."""
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(successes, count + 1))


@pytest.mark.parametrize(("successes", "count"), [(5, 10), (52, 100), (107, 214), (90, 214)])
def test_the_p_value_is_the_larger_of_two_exact_tests(successes: int, count: int) -> None:
    found = equivalence_of(successes, count, 0.1)
    above, below = tail(successes, count, 0.4), tail(count - successes, count, 0.4)
    assert found.p_value == pytest.approx(max(above, below))
    assert found.equivalent == (max(above, below) < 0.05)


def test_few_answers_show_nothing_and_many_do() -> None:
    assert not equivalence_of(5, 10).equivalent
    assert equivalence_of(150, 300).equivalent
    assert not equivalence_of(180, 300).equivalent


def test_answers_needed_by_hand() -> None:
    """(1.6449 + 1.2816)^2 / (4 * 0.1^2) = 214.1."""
    assert answers_needed(0.1, 0.8) == 215
    assert answers_needed(0.05, 0.8) == 857
    assert answers_needed(0.1, 0.9) == 271


def test_the_power_is_as_planned() -> None:
    successes = np.random.default_rng(0).binomial(answers_needed(), 0.5, 2000)
    share = np.mean([equivalence_of(int(k), answers_needed()).equivalent for k in successes])
    assert share == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(("count", "margin"), [(0, 0.1), (10, 0.0), (10, 0.5)])
def test_impossible_tests_are_refused(count: int, margin: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 0.5"):
        equivalence_of(0, count, margin)
    if count:
        with pytest.raises(ValueError, match="between 0 and 0.5"):
            answers_needed(margin)
