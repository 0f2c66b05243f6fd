"""Linear probes: what a linear classifier can read from a code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """Result of a linear probe.

    Attributes:
        accuracy: cross-validated accuracy.
        chance: share of the most frequent label.
        classes: number of labels.
        clips: number of clips.
    """

    accuracy: float
    chance: float
    classes: int
    clips: int


def linear_probe(codes: np.ndarray, labels: Sequence[str], groups: Sequence[str]) -> Probe | None:
    """Trains a logistic regression on standardised codes, cross-validated with whole groups held out.

    Args:
        codes: ``[N, D]``.
        labels: N labels to predict.
        groups: N names of groups, such as sentences. A group is never split between training and test.

    Returns:
        The result, or None if there is only one label or only one group.
    """
    # Imported here, because every worker of a training imports this module, and scikit-learn takes a second.
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = min(FOLDS, len(set(groups)))
    if len(set(labels)) < 2 or folds < 2:
        return None
    names, predicted = np.asarray(labels), np.empty_like(np.asarray(labels))
    for train, test in GroupKFold(folds).split(codes, names, np.asarray(groups)):
        several = len(set(names[train])) > 1  # all clips of a rare label may be held out
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500) if several else DummyClassifier())
        predicted[test] = model.fit(codes[train], names[train]).predict(codes[test])
    counts = Counter(labels)
    return Probe(float((predicted == names).mean()), max(counts.values()) / len(labels), len(counts), len(labels))
