"""Voices of the puppets: effects of identity and emotion on the speech."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.traits import make_puppet
from s2v_ray.puppets.voice import PROSODY, speak

TEXT = "My brother found a purple fish"


def _pitch(samples: np.ndarray) -> float:
    """Median pitch, Hz: the highest peak of the autocorrelation in the loud half of the frames."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::512]
    power = (frames**2).mean(1)
    spectra = np.abs(np.fft.rfft(frames[power > np.median(power)] * np.hanning(1024), 2048)) ** 2
    correlation = np.fft.irfft(spectra)[:, RATE // 600 : RATE // 60]
    return float(np.median(RATE / (correlation.argmax(1) + RATE // 600)))


def test_an_utterance_does_not_depend_on_earlier_ones() -> None:
    voice = make_puppet(0, 1, 24).voice
    first = speak(voice, "fearful", TEXT)
    speak(make_puppet(0, 2, 24).voice, "happy", "Quite another sentence")
    again = speak(voice, "fearful", TEXT)
    assert np.array_equal(first.samples, again.samples)
    assert first.phonemes == again.phonemes


def test_phonemes_tile_the_speech_between_two_silences() -> None:
    speech = speak(make_puppet(0, 0, 24).voice, "neutral", TEXT, silence=0.15)
    seconds = len(speech.samples) / RATE
    assert speech.phonemes[0].start == pytest.approx(0.15, abs=0.01)
    assert speech.phonemes[-1].end == pytest.approx(seconds - 0.15, abs=0.01)
    for before, after in zip(speech.phonemes[:-1], speech.phonemes[1:], strict=True):
        assert before.end == pytest.approx(after.start, abs=1e-4)
    # "my brother": m, aI, b, r, ...
    names = [p.phoneme.strip("',") for p in speech.phonemes]
    assert names[0] == "m" and names[2] == "b" and names[3] == "r"
    assert np.abs(speech.samples[: round(0.14 * RATE)]).max() < 0.01
    assert 0.01 < np.abs(speech.samples).max() <= 1.0


@pytest.mark.parametrize("rank", [0, 10])
def test_emotions_change_level_rate_and_pitch(rank: int) -> None:
    voice = sorted((make_puppet(0, i, 24).voice for i in range(24)), key=lambda v: v.pitch)[rank]
    spoken = {emotion: speak(voice, emotion, TEXT) for emotion in PROSODY}
    level = {e: float(np.sqrt(np.mean(s.samples**2))) for e, s in spoken.items()}
    assert level["angry"] > level["happy"] > level["neutral"] > level["fearful"] > level["sad"]
    length = {e: len(s.samples) for e, s in spoken.items()}
    assert length["sad"] > 1.1 * length["neutral"]
    assert length["neutral"] > 1.1 * length["angry"]
    plain = replace(voice, resonances=(3500.0, 5000.0))  # a resonance at a harmonic can be mistaken for the pitch
    pitch = {e: _pitch(speak(plain, e, TEXT).samples) for e in PROSODY}
    assert pitch["surprised"] > pitch["happy"] > pitch["neutral"] > pitch["sad"]


def test_a_larger_build_has_a_lower_voice() -> None:
    voices = sorted((make_puppet(3, i, 24).voice for i in range(24)), key=lambda v: v.formants[5])
    big, small = voices[0], voices[-1]
    assert big.pitch < 0.7 * small.pitch
    assert _pitch(speak(big, "neutral", TEXT).samples) < 0.8 * _pitch(speak(small, "neutral", TEXT).samples)


def test_unknown_emotion_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'bored'"):
        speak(make_puppet(0, 0, 2).voice, "bored", TEXT)
