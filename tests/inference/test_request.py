from __future__ import annotations

import numpy as np
import pytest
import torch

from s2v_ray.inference.request import GenerationRequest, frames_of, pad_to_frames
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from tests.helpers.sounds import speech


def test_a_started_frame_counts() -> None:
    sound = speech(1.0)
    assert GenerationRequest(sound[: 10 * SAMPLES_PER_FRAME]).frames == 10
    assert GenerationRequest(sound[: 10 * SAMPLES_PER_FRAME + 1]).frames == 11


def test_padding_adds_silence_and_clips() -> None:
    sound = np.full(SAMPLES_PER_FRAME + 1, 2.0, np.float32)
    padded = pad_to_frames(sound)
    assert padded.dtype == torch.float32
    assert frames_of(padded) == 2
    assert padded[: len(sound)].eq(1.0).all()
    assert padded[len(sound) :].eq(0.0).all()
    assert sound.max() == 2.0, "the input is not changed"


@pytest.mark.parametrize(
    ("sound", "message"),
    [
        (np.zeros(0, np.float32), "shorter than one video frame"),
        (speech(1.0)[: SAMPLES_PER_FRAME - 1], "shorter than one video frame"),
        (np.full(6400, np.nan, np.float32), "not finite"),
        (np.full(6400, -np.inf, np.float32), "not finite"),
        (np.zeros((2, 6400), np.float32), "must be mono"),
    ],
)
def test_unusable_speech_is_refused(sound: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pad_to_frames(sound)
