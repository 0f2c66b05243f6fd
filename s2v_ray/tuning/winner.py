"""The best trial by several metrics: the Pareto set, and the rule that picks one of it. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2v_ray.tuning.space import Lexicographic, Ranks, better

Scores = Mapping[int, Mapping[str, float]]
"""Trial -> validation metric -> value."""


def cost(metric: str, value: float) -> float:
    """Return ``value``, negated if higher is better, so that less is always better."""
    return value if better(metric) == "lower" else -value


def dominates(a: Mapping[str, float], b: Mapping[str, float], objectives: Sequence[str]) -> bool:
    """Whether ``a`` is not worse than ``b`` in any objective, and better in at least one."""
    costs = [(cost(m, a[m]), cost(m, b[m])) for m in objectives]
    return all(x <= y for x, y in costs) and any(x < y for x, y in costs)


def pareto_set(scores: Scores, objectives: Sequence[str]) -> list[int]:
    """Return the trials that no other dominates, in order."""
    return sorted(
        n for n, own in scores.items() if not any(dominates(other, own, objectives) for other in scores.values())
    )


def ranks(scores: Scores, metric: str) -> dict[int, float]:
    """Return the rank of each trial, 1 for the best; equal trials share the mean of their ranks."""
    costs = {n: cost(metric, s[metric]) for n, s in scores.items()}
    return {
        n: 1 + sum(c < own for c in costs.values()) + (sum(c == own for c in costs.values()) - 1) / 2
        for n, own in costs.items()
    }


def mean_ranks(scores: Scores, objectives: Sequence[str], weights: Mapping[str, float]) -> dict[int, float]:
    """Return each trial's rank, averaged over the objectives with weights."""
    by_metric = {m: ranks(scores, m) for m in objectives}
    total = sum(weights.get(m, 1.0) for m in objectives) or 1.0
    return {n: sum(weights.get(m, 1.0) * by_metric[m][n] for m in objectives) / total for n in scores}


def pick(scores: Scores, objectives: Sequence[str], rule: Ranks | Lexicographic) -> int:
    """Return the winner, one of the Pareto set; of two that the rule finds equal, the one with the lower number.

    Raises:
        ValueError: there is no trial.
    """
    if not scores:
        raise ValueError("there is no trial to pick from")
    front = {n: scores[n] for n in pareto_set(scores, objectives)}
    if isinstance(rule, Ranks):
        means = mean_ranks(scores, objectives, rule.weights)
        return min(front, key=lambda n: (means[n], n))
    left = sorted(front)
    for metric in objectives:
        best = min((front[n][metric] for n in left), key=lambda v: cost(metric, v))
        left = [n for n in left if cost(metric, front[n][metric]) - cost(metric, best) <= rule.tolerance * abs(best)]
    return min(left, key=lambda n: (*(cost(m, front[n][m]) for m in objectives), n))
