import numpy as np
import pytest
import torch

from s2v_ray.metrics import METRICS, VALIDATION, bootstrap_mean
from s2v_ray.metrics.emotion import VISIBLE, emotion_contrast, verdict
from s2v_ray.metrics.identity import average_content_distance, centroids, cosine_identity, nearest_centroid
from s2v_ray.metrics.probe import linear_probe


def test_bootstrap_interval_is_that_of_theory_and_seeded() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    found = bootstrap_mean(values, 4000, seed=3)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert found == bootstrap_mean(values, 4000, seed=3) != bootstrap_mean(values, 4000, seed=4)


def test_bootstrap_leaves_out_what_does_not_apply() -> None:
    assert bootstrap_mean([1.0, float("nan"), 3.0, float("inf")]).mean == 2.0
    nothing = bootstrap_mean([float("nan")])
    assert (nothing.mean, nothing.low, nothing.high, nothing.clips) == (None, None, None, 0)


def test_every_metric_says_which_way_is_better() -> None:
    assert {m.arrow for m in METRICS.values()} == {"↑", "↓", "→1"}
    assert {m.better for m in VALIDATION.values()} == {"higher", "lower"}  # a sweep must know which of two is best


def test_identity_distances_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert average_content_distance(a, a) == pytest.approx(0.0)
    assert average_content_distance(a, b) == pytest.approx(1 - 0.5**0.5)  # the mean of b's unit codes is at 45 degrees
    assert cosine_identity(a, b) == pytest.approx(0.5)


def test_nearest_centroid() -> None:
    codes = np.array([[2.0, 0.1], [1.0, -0.1], [0.1, 5.0]])
    centres, names = centroids(codes, ["b", "b", "a"])
    assert names == ["a", "b"]
    assert np.linalg.norm(centres, axis=1) == pytest.approx([1.0, 1.0])
    assert nearest_centroid(np.array([[9.0, 1.0], [1.0, 2.0]]), centres, names) == ["b", "a"]


def test_verdict_is_that_of_the_mean() -> None:
    assert verdict(torch.tensor([[0.0, 1.0], [0.0, 1.0], [9.0, 0.0]]), ("sad", "happy")) == "sad"


def test_contrast_by_hand() -> None:
    base = np.full((10, 20, 20, 3), 100, np.uint8)
    half = base.copy()
    half[:5] += 40  # differs in half of the frames
    found = emotion_contrast({"neutral": base, "happy": base + 40, "sad": half}, base)
    assert found.threshold == VISIBLE and found.noise == 0.0
    assert found.share == pytest.approx((1.0 + 0.5 + 0.5) / 3)
    assert found.worst_share == 0.5 and "sad" in found.worst_pair
    noisy = emotion_contrast({"neutral": base, "happy": base + 40}, base + 30)
    assert noisy.threshold == 60.0 and noisy.share == 0.0
    with pytest.raises(ValueError, match="two"):
        emotion_contrast({"neutral": base}, base)


def test_probe_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels = ["happy", "sad", "sad", "sad"] * 40
    groups = [str(i // 8) for i in range(160)]
    noise = rng.standard_normal((160, 6))
    told = noise + np.array([label == "sad" for label in labels])[:, None] * 4
    found, nothing = linear_probe(told, labels, groups), linear_probe(noise, labels, groups)
    assert found is not None and nothing is not None
    assert found.accuracy > 0.97 and found.chance == 0.75 and found.classes == 2 and found.clips == 160
    assert nothing.accuracy < nothing.chance + 0.05


def test_probe_never_sees_the_sentence_it_is_tested_on() -> None:
    """A code that tells only the sentence, which tells the label: without grouping the probe would be perfect."""
    rng = np.random.default_rng(0)
    of_sentence = rng.standard_normal((20, 40))
    sentences = np.repeat(np.arange(20), 6)
    labels = ["ab"[s % 2] for s in sentences]
    found = linear_probe(of_sentence[sentences], labels, [str(s) for s in sentences])
    assert found is not None and found.accuracy < 0.8


def test_probe_does_not_apply_to_one_label_or_one_sentence() -> None:
    codes = np.zeros((4, 2))
    assert linear_probe(codes, ["a"] * 4, list("wxyz")) is None
    assert linear_probe(codes, list("abab"), ["w"] * 4) is None


def test_a_label_of_one_group_is_never_guessed() -> None:
    """Held out, its group leaves one label to learn from; that one is predicted, as the others are from their codes."""
    codes = np.array([[0.0], [0.1], [-0.1], [5.0]])
    found = linear_probe(codes, list("aaab"), list("wxyz"))
    assert found is not None and (found.accuracy, found.chance, found.classes, found.clips) == (0.75, 0.75, 2, 4)
