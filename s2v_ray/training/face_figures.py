"""Figures of a face network on clips that it was not trained on, and the check that it is better than chance."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn import functional as F

from s2v_ray import storage
from s2v_ray.training.stills import Stills

SIGNIFICANCE = 0.05
"""Largest p-value of a one-sided binomial test against chance."""


def label_indices(labels: np.ndarray, names: tuple[str, ...]) -> Tensor:
    """Return the index of each label in ``names`` as int64, -1 if it is none of them."""
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index.get(label, -1) for label in labels])


def classifier_figures(
    place: str,
    stills: Stills,
    role: str,
    outputs: Tensor,
    train: np.ndarray,
    held_out: np.ndarray,
    names: tuple[str, ...],
) -> tuple[dict[str, float], Tensor]:
    """Measure an identity or emotion network; return its figures and the mean output of each clip.

    Args:
        place: name of the network for messages.
        stills: all stills.
        role: "identity" or "emotion".
        outputs: ``[M, D]``, the network's outputs for all stills.
        train: bool ``[N]``, clips it was trained on.
        held_out: bool ``[N]``, clips to measure on.
        names: labels in the order of the outputs (emotion).

    Raises:
        ArtifactError: there is no clip to measure on, or the network is at chance.
    """
    _check_any(place, held_out)
    codes = clip_means(outputs, stills.clip, len(held_out))
    truth = stills.labels(role)
    if role == "identity":
        right, chance = nearest_speaker(codes, truth, train, held_out)
    else:
        number = label_indices(truth, names)
        held_out = held_out & (number.numpy() >= 0)
        right = (codes.argmax(1) == number).numpy()[held_out]
        chance = float(number[held_out].bincount().max() / held_out.sum()) if held_out.any() else 1.0
    n, correct = len(right), int(right.sum())
    if not n or binomtest(correct, n, min(chance, 1.0), alternative="greater").pvalue > SIGNIFICANCE:
        raise storage.ArtifactError(
            f"{place} is at chance on clips it never saw ({correct} of {n} right, chance {chance:.2f}): "
            "increase teach.steps, check the labels, or name a card"
        )
    return {"accuracy": float(right.mean()), "chance": chance, "clips": float(n)}, codes


def mouth_figures(
    place: str, stills: Stills, opening: Tensor, train: np.ndarray, held_out: np.ndarray
) -> dict[str, float]:
    """Measure a mouth network, whose outputs are ``opening [M]``; arguments and errors as ``classifier_figures``."""
    _check_any(place, held_out)
    at = held_out[stills.clip.numpy()] & stills.opening.isfinite().numpy()
    truth, predicted = stills.opening.numpy()[at], opening.numpy()[at]
    median = np.nanmedian(stills.opening.numpy()[train[stills.clip.numpy()]])
    mae, constant = float(np.abs(predicted - truth).mean()), float(np.abs(median - truth).mean())
    if mae >= constant:
        raise storage.ArtifactError(
            f"{place} is at chance on clips it never saw (error {mae:.3f}, of a constant {constant:.3f}): "
            "increase teach.steps"
        )
    correlation = float(np.corrcoef(predicted, truth)[0, 1])
    return {"mae": mae, "mae_of_constant": constant, "correlation": correlation, "clips": float(held_out.sum())}


def _check_any(place: str, held_out: np.ndarray) -> None:
    if not held_out.any():
        raise storage.ArtifactError(
            f"{place} cannot be measured: no labelled clip is left that it was not trained on; ingest more clips"
        )


def clip_means(outputs: Tensor, clip: Tensor, clips: int) -> Tensor:
    """Average outputs over the stills of each clip: ``[M, D]`` -> ``[N, D]``."""
    total = torch.zeros(clips, outputs.shape[1]).index_add_(0, clip, outputs)
    return total / clip.bincount(minlength=clips).clamp(min=1).unsqueeze(1)


def nearest_speaker(
    codes: Tensor, speaker: np.ndarray, train: np.ndarray, held_out: np.ndarray
) -> tuple[np.ndarray, float]:
    """Test whether the nearest of all speakers' centroids is a clip's own; return that for each clip, and chance.

    The clip itself is excluded from its speaker's centroid, so that new speakers can be tested too.
    """
    names = tuple(sorted(set(speaker[train | held_out])))
    number = label_indices(speaker, names)
    known = torch.from_numpy(train | held_out)
    member = F.one_hot(number.clamp(min=0), len(names)).float() * known.unsqueeze(1)
    unit = F.normalize(codes, dim=1)
    sums = member.T @ unit  # [speakers, D]
    # The only clip of a speaker has no other clip to be near to.
    at = torch.from_numpy(held_out) & (member.sum(0)[number.clamp(min=0)] > 1)
    cosine = F.normalize(unit, dim=1) @ F.normalize(sums, dim=1).T
    own = F.normalize(sums[number.clamp(min=0)] - unit, dim=1)
    cosine[torch.arange(len(codes)), number.clamp(min=0)] = (unit * own).sum(1)
    return (cosine.argmax(1) == number)[at].numpy(), 1.0 / len(names)


def leak_figures(codes: np.ndarray, nuisance: np.ndarray, fit: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return the accuracy on ``test`` of a linear probe for a label that the codes should not carry; {} without labels.

    The probe is fitted on ``fit``, other clips that the network was not trained on. Folds within ``test`` would
    mislead: if each speaker has one clip of an emotion, a probe learns to predict any emotion but the right one.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fit = fit & (nuisance != "")
    test = test & np.isin(nuisance, nuisance[fit])
    if len(set(nuisance[fit])) < 2 or not test.any():
        return {}
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(codes[fit], nuisance[fit])
    _, count = np.unique(nuisance[test], return_counts=True)
    return {
        "leak": float(probe.score(codes[test], nuisance[test])),
        "leak_chance": float(count.max() / test.sum()),
    }
