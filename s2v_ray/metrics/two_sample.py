"""The classifier two-sample test: can a classifier that is trained to tell two systems' clips apart do so?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

REPEATS = 5
"""Random halvings of the clips over which the accuracy is averaged."""
MIN_CLIPS = 8
"""Smallest number of clips, so that each half trains and tests on at least four of each system."""
REGULARISATION = 0.05
"""Inverse weight of the L2 penalty (C of scikit-learn). There are more features than clips."""
GRID = 8
"""Cells along each side in which texture and motion are measured."""


@dataclass(frozen=True)
class TwoSample:
    """Result of a classifier two-sample test.

    Attributes:
        accuracy: accuracy on held-out clips; 0.5 means that the systems cannot be told apart.
        low: lower end of the 95% bootstrap interval over clips.
        high: upper end of that interval.
        clips: number of clips of each system.
    """

    accuracy: float
    low: float
    high: float
    clips: int


def two_sample_test(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], resamples: int = 1000, seed: int = 0
) -> TwoSample | None:
    """C2ST (Lopez-Paz and Oquab 2017) with logistic regression on standardised features of frames.

    The clips are halved. The classifier is trained on the frames of one half, of both systems, and tested on the other;
    then the halves change places. The frames of a clip, and both systems' versions of it, are in one half. A clip's
    decision is the sign of the mean logit of its frames. Accuracies are averaged over ``REPEATS`` halvings; the
    interval resamples clips.

    Args:
        first: for each clip, features ``[N, D]`` of its frames from the first system.
        second: for the same clips, features from the second system.
        resamples: number of resamples of the interval.
        seed: seed of halvings and resamples.

    Returns:
        The result, or None for fewer than ``MIN_CLIPS`` clips.

    Raises:
        ValueError: the numbers of clips differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} clips: both systems need frames for the same clips")
    count = len(first)
    if count < MIN_CLIPS:
        return None
    rng = np.random.default_rng(seed)
    right = np.zeros(count)
    for _ in range(REPEATS):
        order = rng.permutation(count)
        halves = order[: count // 2], order[count // 2 :]
        for train, test in (halves, halves[::-1]):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=500))
            shown = [first[i] for i in train] + [second[i] for i in train]
            labels = np.repeat([0, 1], [sum(len(s[i]) for i in train) for s in (first, second)])
            model.fit(np.concatenate(shown), labels)
            for i in test:
                logits = [float(model.decision_function(system[i]).mean()) for system in (first, second)]
                # A logit of 0 is half right.
                right[i] += (2.0 - np.sign(logits[0]) + np.sign(logits[1])) / 4 / REPEATS
    drawn = right[rng.integers(0, count, (resamples, count))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return TwoSample(float(right.mean()), float(low), float(high), count)


def frame_features(frames: np.ndarray, chosen: np.ndarray, codes: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Features of some frames of a clip: what networks, colours, texture and motion say about them.

    Colour: means of 4 x 4 cells. Texture and motion: logarithms of the mean absolute value, in ``GRID`` x ``GRID``
    cells, of the luma's high-pass (minus its 3 x 3 mean) and of its difference to the next frame.

    Args:
        frames: uint8 ``[T, S, S, 3]``, T at least 2.
        chosen: ``[N]``, indices of the frames.
        codes: outputs ``[N, D]`` of networks for these frames.

    Returns:
        float32 ``[N, F]``.
    """
    import cv2

    luma = frames.astype(np.float32).mean(axis=3)
    features = []
    for t in chosen:
        other = min(t + 1, len(luma) - 1) if t + 1 < len(luma) else t - 1
        texture = np.abs(luma[t] - cv2.blur(luma[t], (3, 3)))
        motion = np.abs(luma[other] - luma[t])
        energies = [cv2.resize(x, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel() for x in (texture, motion)]
        colour = cv2.resize(frames[t].astype(np.float32), (4, 4), interpolation=cv2.INTER_AREA).ravel() / 255.0
        features.append(np.concatenate([colour, *(np.log(0.1 + energy) for energy in energies)]))
    return np.concatenate([np.stack(features), *codes], axis=1).astype(np.float32)
