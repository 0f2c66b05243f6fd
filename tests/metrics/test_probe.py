from __future__ import annotations

import numpy as np

from s2v_ray.metrics.probe import linear_probe

LABELS = ["happy", "sad", "sad", "sad"] * 40
GROUPS = [str(i // 8) for i in range(160)]


def test_a_label_in_the_code_is_found() -> None:
    noise = np.random.default_rng(0).standard_normal((160, 6))
    codes = noise + np.array([label == "sad" for label in LABELS])[:, None] * 4
    found = linear_probe(codes, LABELS, GROUPS)
    assert found is not None
    assert found.accuracy > 0.97
    assert (found.chance, found.classes, found.clips) == (0.75, 2, 160)


def test_noise_gives_chance() -> None:
    found = linear_probe(np.random.default_rng(0).standard_normal((160, 6)), LABELS, GROUPS)
    assert found is not None and found.accuracy < found.chance + 0.05


def test_groups_are_held_out_as_a_whole() -> None:
    """The code holds only the sentence, which determines the label. Without grouping the probe would be perfect."""
    rng = np.random.default_rng(0)
    of_sentence = rng.standard_normal((20, 40))
    sentences = np.repeat(np.arange(20), 6)
    labels = ["ab"[s % 2] for s in sentences]
    found = linear_probe(of_sentence[sentences], labels, [str(s) for s in sentences])
    assert found is not None and found.accuracy < 0.8


def test_one_label_or_one_group_has_no_probe() -> None:
    codes = np.zeros((4, 2))
    assert linear_probe(codes, ["a"] * 4, list("wxyz")) is None
    assert linear_probe(codes, list("abab"), ["w"] * 4) is None


def test_a_label_of_one_group_is_never_predicted() -> None:
    """With its group held out, one label is left to learn; that one is predicted, and the others from their codes."""
    codes = np.array([[0.0], [0.1], [-0.1], [5.0]])
    found = linear_probe(codes, list("aaab"), list("wxyz"))
    assert found is not None
    assert (found.accuracy, found.chance, found.classes, found.clips) == (0.75, 0.75, 2, 4)
