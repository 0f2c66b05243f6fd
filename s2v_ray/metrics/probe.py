"""What leaks into a code? A linear probe tells what a linear reader could learn from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """Cross-validated accuracy of a linear probe; ``chance`` is the share of the most frequent label."""

    accuracy: float
    chance: float
    classes: int
    clips: int


def linear_probe(codes: np.ndarray, labels: Sequence[str], groups: Sequence[str]) -> Probe | None:
    """Logistic regression on standardised codes, cross-validated so that a group (a sentence) is never on both sides.

    Args:
        codes: ``[N, D]``.
        labels: N names of what is probed for.
        groups: N names of groups kept together.

    Returns:
        None where it does not apply: one label only, or one group only.
    """
    folds = min(FOLDS, len(set(groups)))
    if len(set(labels)) < 2 or folds < 2:
        return None
    names, predicted = np.asarray(labels), np.empty_like(np.asarray(labels))
    for train, test in GroupKFold(folds).split(codes, names, np.asarray(groups)):
        several = len(set(names[train])) > 1  # a rare label may have all its clips on the other side
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500) if several else DummyClassifier())
        predicted[test] = model.fit(codes[train], names[train]).predict(codes[test])
    counts = Counter(labels)
    return Probe(float((predicted == names).mean()), max(counts.values()) / len(labels), len(counts), len(labels))
