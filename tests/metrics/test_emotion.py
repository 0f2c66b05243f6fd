from __future__ import annotations

import pytest
import torch

from s2v_ray.metrics.emotion import clip_emotion, confusion_of


def test_the_emotion_of_a_clip_is_that_of_its_mean_logits() -> None:
    assert clip_emotion(torch.tensor([[0.0, 1.0], [0.0, 1.0], [9.0, 0.0]]), ("sad", "happy")) == "sad"


def test_confusion_by_hand() -> None:
    found = confusion_of(["sad", "happy", "sad", "sad"], ["sad", "sad", "calm", "sad"], ("calm", "happy", "sad"))
    assert found.asked == ("sad", "happy")
    assert found.seen == ("calm", "happy", "sad")
    assert found.counts == ((1, 0, 2), (0, 0, 1))
    assert found.share == 0.5
    assert found.chance == 0.75, "a judge that always says sad"


def test_an_emotion_that_the_judge_does_not_know_is_never_right() -> None:
    found = confusion_of(["bored", "sad"], ["sad", "sad"], ("sad",))
    assert found.counts == ((1,), (1,))
    assert found.share == 0.5


def test_a_confusion_needs_clips() -> None:
    for asked, seen in (([], []), (["sad"], [])):
        with pytest.raises(ValueError, match="one seen emotion for each"):
            confusion_of(asked, seen, ("sad",))
