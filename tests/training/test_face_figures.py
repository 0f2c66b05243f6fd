"""Figures of face networks with values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from s2v_ray.storage import ArtifactError
from s2v_ray.training.face_figures import (
    classifier_figures,
    clip_means,
    label_indices,
    leak_figures,
    mouth_figures,
    nearest_speaker,
)
from s2v_ray.training.stills import Stills


def stills(emotion: list[str], opening: list[float]) -> Stills:
    """One still for each clip."""
    n = len(emotion)
    return Stills(
        torch.zeros(n, 2, 2, 3, dtype=torch.uint8),
        torch.arange(n),
        torch.tensor(opening),
        np.array(["a"] * n),
        np.array(emotion),
        np.full(n, -1),
    )


def test_unknown_labels_have_the_index_minus_one() -> None:
    assert label_indices(np.array(["b", "a", "c"]), ("a", "b")).tolist() == [1, 0, -1]


def test_outputs_are_averaged_over_the_stills_of_a_clip() -> None:
    outputs = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 2.0]])
    assert clip_means(outputs, torch.tensor([0, 0, 2]), 3).tolist() == [[2.0, 0.0], [0.0, 0.0], [5.0, 2.0]]


def test_accuracy_and_chance_of_an_emotion_network() -> None:
    emotion = ["happy"] * 6 + ["sad"] * 4
    logits = torch.tensor([[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 3 + [[1.0, 0.0]])  # one of ten is wrong
    everything, nothing = np.ones(10, bool), np.zeros(10, bool)
    figures, codes = classifier_figures(
        "judges/emotion", stills(emotion, [0.0] * 10), "emotion", logits, nothing, everything, ("happy", "sad")
    )
    assert figures == {"accuracy": pytest.approx(0.9), "chance": pytest.approx(0.6), "clips": 10.0}
    assert torch.equal(codes, logits)


def test_a_constant_answer_is_at_chance() -> None:
    emotion = ["happy"] * 6 + ["sad"] * 4
    constant, everything = torch.tensor([[1.0, 0.0]] * 10), np.ones(10, bool)
    with pytest.raises(ArtifactError, match=r"is at chance on clips it never saw \(6 of 10 right, chance 0.60\)"):
        classifier_figures(
            "judges/emotion",
            stills(emotion, [0.0] * 10),
            "emotion",
            constant,
            ~everything,
            everything,
            ("happy", "sad"),
        )


def test_a_clip_is_left_out_of_its_own_centroid() -> None:
    """The last clip is nearer to speaker a, unless its own centroid contains it."""
    codes = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.4]])
    speaker, everything = np.array(["a", "a", "b", "b"]), np.ones(4, bool)
    right, chance = nearest_speaker(codes, speaker, ~everything, everything)
    assert right.tolist() == [True, True, True, False] and chance == 0.5


def test_mouth_error_is_compared_with_a_constant() -> None:
    data = stills(["", "", "", ""], [0.0, 0.2, 0.8, 1.0])
    everything = np.ones(4, bool)
    figures = mouth_figures("judges/mouth", data, torch.tensor([0.1, 0.2, 0.8, 0.9]), everything, everything)
    assert figures["mae"] == pytest.approx(0.05) and figures["mae_of_constant"] == pytest.approx(0.4)
    assert figures["correlation"] > 0.99
    with pytest.raises(ArtifactError, match="judges/mouth is at chance"):
        mouth_figures("judges/mouth", data, torch.tensor([1.0, 0.8, 0.2, 0.0]), everything, everything)


def test_no_held_out_clip_is_an_error() -> None:
    nothing = np.zeros(1, bool)
    with pytest.raises(ArtifactError, match="judges/mouth cannot be measured"):
        mouth_figures("judges/mouth", stills([""], [0.5]), torch.tensor([0.5]), nothing, nothing)


def test_a_leak_is_found_by_a_probe_on_other_clips() -> None:
    rng = np.random.default_rng(0)
    nuisance = np.array(["x", "y"] * 40)
    codes = rng.normal(size=(80, 3))
    leaking = codes + 4.0 * (nuisance == "y")[:, None]
    fit = np.arange(80) < 40
    assert leak_figures(leaking, nuisance, fit, ~fit) == {"leak": 1.0, "leak_chance": 0.5}
    assert leak_figures(codes, nuisance, fit, ~fit)["leak"] < 0.75
    assert leak_figures(codes, np.array([""] * 80), fit, ~fit) == {}
