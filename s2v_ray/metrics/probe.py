"""What leaks into a code? A linear probe tells what a linear reader could learn from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
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
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    predicted = cross_val_predict(model, codes, np.asarray(labels), groups=np.asarray(groups), cv=GroupKFold(folds))
    counts = Counter(labels)
    return Probe(float((predicted == np.asarray(labels)).mean()), max(counts.values()) / len(labels), len(counts), len(labels))
