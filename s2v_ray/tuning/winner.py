"""Which trial is best by several figures at once: the Pareto set, and the rule that picks one of it. Plain functions of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from s2v_ray.tuning.space import Lexicographic, Ranks, better

Scores = Mapping[int, Mapping[str, float]]
"""Trial -> figure of the validation -> value."""


def cost(metric: str, value: float) -> float:
    """``value`` with its sign changed where higher is better, so that less is always better."""
    return value if better(metric) == "lower" else -value


def dominates(a: Mapping[str, float], b: Mapping[str, float], objectives: Sequence[str]) -> bool:
    """Whether ``a`` is nowhere worse than ``b``, and somewhere better."""
    costs = [(cost(m, a[m]), cost(m, b[m])) for m in objectives]
    return all(x <= y for x, y in costs) and any(x < y for x, y in costs)


def pareto_set(scores: Scores, objectives: Sequence[str]) -> list[int]:
    """The trials that no other dominates, in order."""
    return sorted(
        n for n, own in scores.items() if not any(dominates(other, own, objectives) for other in scores.values())
    )


def ranks(scores: Scores, metric: str) -> dict[int, float]:
    """1 for the best; those that are equal share the mean of their places."""
    costs = {n: cost(metric, s[metric]) for n, s in scores.items()}
    return {
        n: 1 + sum(c < own for c in costs.values()) + (sum(c == own for c in costs.values()) - 1) / 2
        for n, own in costs.items()
    }


def mean_ranks(scores: Scores, objectives: Sequence[str], weights: Mapping[str, float]) -> dict[int, float]:
    """The weighted mean over the objectives of each trial's rank."""
    by_metric = {m: ranks(scores, m) for m in objectives}
    total = sum(weights.get(m, 1.0) for m in objectives) or 1.0
    return {n: sum(weights.get(m, 1.0) * by_metric[m][n] for m in objectives) / total for n in scores}


def pick(scores: Scores, objectives: Sequence[str], rule: Ranks | Lexicographic) -> int:
    """The winner: one of the Pareto set; the lower number where the rule finds two alike.

    Raises:
        ValueError: there is no trial.
    """
    if not scores:
        raise ValueError("no trial to pick from")
    front = {n: scores[n] for n in pareto_set(scores, objectives)}
    if isinstance(rule, Ranks):
        means = mean_ranks(scores, objectives, rule.weights)
        return min(front, key=lambda n: (means[n], n))
    left = sorted(front)
    for metric in objectives:
        best = min((front[n][metric] for n in left), key=lambda v: cost(metric, v))
        left = [n for n in left if cost(metric, front[n][metric]) - cost(metric, best) <= rule.tolerance * abs(best)]
    return min(left, key=lambda n: (*(cost(m, front[n][m]) for m in objectives), n))
