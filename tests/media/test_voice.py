"""Detection of speech in known sounds."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
import torchaudio.functional as F

from s2v_ray.media import voice
from s2v_ray.media.timing import SAMPLE_RATE
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.traits import make_puppet
from s2v_ray.puppets.voice import speak


def spoken() -> np.ndarray:
    speech = speak(make_puppet(0, 0, 24).voice, "neutral", "My brother found a purple fish in the garden")
    return np.asarray(F.resample(torch.from_numpy(speech.samples).float(), RATE, SAMPLE_RATE))


def test_speech_is_found_and_its_share_is_that_of_its_time() -> None:
    speech = spoken()
    alone = voice.speech_share(speech)
    assert alone > 0.7
    padded = np.concatenate([np.zeros_like(speech), speech, np.zeros_like(speech)])
    assert voice.speech_share(padded) == pytest.approx(alone / 3, abs=0.03)


@pytest.mark.parametrize("sound", ["silence", "noise", "tone"])
def test_other_sounds_are_no_speech(sound: str) -> None:
    times = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    sounds = {
        "silence": np.zeros_like(times),
        "noise": np.random.default_rng(0).normal(0, 0.1, len(times)),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * times),
    }
    assert voice.speech_share(sounds[sound].astype(np.float32)) == 0.0


def test_the_detector_leaves_the_number_of_threads() -> None:
    voice.load_detector.cache_clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        voice.load_detector()
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)


def test_without_the_package_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    voice.load_detector.cache_clear()
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(ValueError, match=r"s2v_ray\[vad\]"):
        voice.load_detector()
