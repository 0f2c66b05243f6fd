"""Equivalence of a share of answers with one half, and the number of answers that show it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest, norm

MARGIN = 0.1
"""Largest difference from one half that counts as equal: 10 percentage points."""
ALPHA = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Equivalence:
    """Result of two one-sided tests.

    Attributes:
        p_value: the larger of the two p-values.
        equivalent: whether it is below ``ALPHA``: the share is inside the margin.
        margin: that it was tested for.
    """

    p_value: float
    equivalent: bool
    margin: float


def equivalence_of(successes: int, count: int, margin: float = MARGIN) -> Equivalence:
    """Test whether a share is equivalent to one half.

    Two one-sided tests (TOST, Schuirmann 1987), each an exact binomial test: that the share is above ``0.5 - margin``,
    and that it is below ``0.5 + margin``. Answers are taken as independent.

    Raises:
        ValueError: there are no answers, or the margin is not between 0 and 0.5.
    """
    if count < 1 or not 0 < margin < 0.5:
        raise ValueError(f"a test of equivalence needs answers and a margin between 0 and 0.5, not {count}, {margin}")
    above = binomtest(successes, count, 0.5 - margin, alternative="greater").pvalue
    below = binomtest(successes, count, 0.5 + margin, alternative="less").pvalue
    p_value = float(max(above, below))
    return Equivalence(p_value, p_value < ALPHA, margin)


def answers_needed(margin: float = MARGIN, power: float = POWER) -> int:
    """Number of answers with which ``equivalence_of`` succeeds with probability ``power`` if the share is one half.

    Normal approximation (Chow, Shao and Wang 2008, section 4.1.2): ``(z_{1 - alpha} + z_{1 - beta / 2})^2 / (4 m^2)``.

    Raises:
        ValueError: the margin is not between 0 and 0.5, or the power not between 0 and 1.
    """
    if not 0 < margin < 0.5 or not 0 < power < 1:
        raise ValueError(f"margin must be between 0 and 0.5 and power between 0 and 1, not {margin}, {power}")
    z = float(norm.ppf(1 - ALPHA) + norm.ppf(1 - (1 - power) / 2))
    return math.ceil(z * z / (4 * margin * margin))
