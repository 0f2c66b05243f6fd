from __future__ import annotations

import numpy as np
import pytest
import torch

from s2v_ray.metrics.emotion import VISIBLE, clip_emotion, emotion_contrast


def test_the_emotion_of_a_clip_is_that_of_its_mean_logits() -> None:
    assert clip_emotion(torch.tensor([[0.0, 1.0], [0.0, 1.0], [9.0, 0.0]]), ("sad", "happy")) == "sad"


def test_contrast_by_hand() -> None:
    base = np.full((10, 20, 20, 3), 100, np.uint8)
    half = base.copy()
    half[:5] += 40  # differs in half of the frames
    found = emotion_contrast({"neutral": base, "happy": base + 40, "sad": half}, base)
    assert found.threshold == VISIBLE
    assert found.noise == 0.0
    assert found.share == pytest.approx((1.0 + 0.5 + 0.5) / 3)
    assert found.worst_share == 0.5 and "sad" in found.worst_pair


def test_a_difference_as_large_as_the_noise_is_not_visible() -> None:
    base = np.full((10, 20, 20, 3), 100, np.uint8)
    noisy = emotion_contrast({"neutral": base, "happy": base + 40}, base + 30)
    assert noisy.threshold == 60.0
    assert noisy.share == 0.0


def test_one_emotion_has_no_contrast() -> None:
    base = np.full((10, 20, 20, 3), 100, np.uint8)
    with pytest.raises(ValueError, match="two"):
        emotion_contrast({"neutral": base}, base)
