from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from s2v_ray.evaluation.student import student_figures
from s2v_ray.inference.state import SpeechCodes
from tests.helpers.evaluated import RECIPE, ExactPredictor, make_clip, write_corpus


def test_exact_codes_without_a_leak(corpus: str) -> None:
    found = student_figures(corpus, ExactPredictor(), RECIPE)
    assert found["emotion_accuracy"] is not None and found["emotion_accuracy"]["mean"] == 1.0
    assert found["identity_accuracy"] is not None and found["identity_accuracy"]["mean"] == 1.0
    assert (found["speakers"], found["clips"]) == (2, 12)
    assert found["leak_emotion"]["accuracy"] <= found["leak_emotion"]["chance"] + 0.15
    assert found["leak_identity"]["accuracy"] <= found["leak_identity"]["chance"] + 0.15
    assert found["notes"] == []


def test_a_leak_and_constant_logits_are_measured(corpus: str) -> None:
    class Leaking(ExactPredictor):
        def encode_speech(self, speech: np.ndarray) -> SpeechCodes:
            codes = super().encode_speech(speech)
            return SpeechCodes(codes.identity + pad(codes.emotion, (3, 0)), codes.emotion, torch.eye(3)[0])

    found = student_figures(corpus, Leaking(), RECIPE)
    assert found["leak_emotion"]["accuracy"] > 0.9
    assert found["emotion_accuracy"]["mean"] == pytest.approx(1 / 3)


def test_figures_that_do_not_apply_come_with_a_note(tmp_path: Path) -> None:
    """One speaker and no labels of emotion."""
    clips = [make_clip(n, 0, 0, labelled=False) for n in range(4)]
    found = student_figures(write_corpus(tmp_path, clips, clips), ExactPredictor(), RECIPE)
    for name in ("emotion_accuracy", "identity_accuracy", "leak_emotion", "leak_identity"):
        assert found[name] is None, name  # type: ignore[literal-required]
    assert found["speakers"] == 0
    assert [note.partition(" does not")[0] for note in found["notes"]] == [
        "emotion accuracy",
        "identity accuracy",
        "the leak of emotion",
        "the leak of identity",
    ]
