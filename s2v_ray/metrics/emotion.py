"""Emotion: the judge's emotion of a clip, and the confusion of emotions that were asked for with those seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


def clip_emotion(logits: Tensor, labels: Sequence[str]) -> str:
    """The emotion that a judge gives a clip: the label of the largest mean logit.

    Args:
        logits: ``[N, K]``: logits of N frames.
        labels: K names.
    """
    return labels[int(logits.mean(0).argmax())]


@dataclass(frozen=True)
class Confusion:
    """How often each emotion was seen where each was asked for.

    Attributes:
        asked: emotions that were asked for, the rows.
        seen: emotions that the judge knows, the columns.
        counts: number of clips, row by row.
        share: share of all clips that show what was asked, in [0, 1].
        chance: that share for a judge that always names its most frequent emotion.
    """

    asked: tuple[str, ...]
    seen: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    share: float
    chance: float


def confusion_of(asked: Sequence[str], seen: Sequence[str], labels: Sequence[str]) -> Confusion:
    """Counts emotions that were asked for against those that a judge sees.

    Args:
        asked: emotion that each clip was generated with.
        seen: emotion that the judge gives each of these clips.
        labels: emotions that the judge knows.

    Raises:
        ValueError: there is no clip, or the lengths differ.
    """
    if not asked or len(asked) != len(seen):
        raise ValueError(f"a confusion needs one seen emotion for each of at least one clip: {len(seen)}, {len(asked)}")
    rows, columns = tuple(dict.fromkeys(asked)), tuple(labels)
    counts = np.zeros((len(rows), len(columns)), int)
    for a, b in zip(asked, seen, strict=True):
        counts[rows.index(a), columns.index(b)] += 1
    right = sum(counts[i, columns.index(name)] for i, name in enumerate(rows) if name in columns)
    constant = max(counts[i].sum() for i in range(len(rows)))
    return Confusion(
        rows,
        columns,
        tuple(tuple(int(n) for n in row) for row in counts),
        float(right / len(asked)),
        float(constant / len(asked)),
    )
