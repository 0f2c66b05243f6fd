from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.puppets.espeak import RATE, Engine, read_language
from s2v_ray.puppets.voice import ACCENTS


def synthesize(definition: str) -> tuple[np.ndarray, list[tuple[int, str]]]:
    with Engine() as engine:
        return engine.synthesize(definition, "my brother.", 178)


def test_a_frame_has_a_whole_number_of_samples() -> None:
    assert RATE % 25 == 0


def test_samples_and_phonemes_of_an_utterance() -> None:
    samples, phonemes = synthesize(read_language("en-US"))
    assert samples.dtype == np.float64
    assert np.abs(samples).max() <= 1.0
    starts = [start for start, _ in phonemes]
    assert starts == sorted(starts)
    assert starts[0] >= 0
    assert starts[-1] <= len(samples)
    names = [name.strip("',") for _, name in phonemes]
    assert names[0] == "m" and names[2] == "b"


def test_each_engine_starts_in_the_same_state() -> None:
    first, _ = synthesize(read_language("en-US"))
    synthesize(read_language("en-029"))
    again, _ = synthesize(read_language("en-US"))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("accent", ACCENTS)
def test_the_accents_are_installed(accent: str) -> None:
    assert "language" in read_language(accent)
