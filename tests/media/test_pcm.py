"""PCM in chunks: the same samples for any chunks, as resampling of the whole, without drift."""

from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.media.audio import resample
from s2v_ray.media.pcm import PcmDecoder
from s2v_ray.media.timing import SAMPLE_RATE


def tone(rate: int, seconds: float) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def as_pcm(samples: np.ndarray) -> bytes:
    return (samples * 32767).round().astype("<i2").tobytes()


def decode(data: bytes, rate: int, size: int) -> np.ndarray:
    decoder = PcmDecoder(rate)
    parts = [decoder.decode(data[i : i + size]) for i in range(0, len(data), size)]
    return np.concatenate([*parts, decoder.close()])


def test_pcm_at_the_own_rate_is_only_scaled() -> None:
    values = np.array([0, 1, -1, 32767, -32768], "<i2")
    assert decode(values.tobytes(), SAMPLE_RATE, 3).tolist() == [0.0, 2**-15, -(2**-15), 1 - 2**-15, -1.0]


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_resampling_in_chunks_equals_that_of_the_whole(rate: int) -> None:
    sound = tone(rate, 2.0)
    expected = resample(sound, rate)
    whole = decode(as_pcm(sound), rate, 10**9)
    for size in (37, 641, 5000):
        found = decode(as_pcm(sound), rate, size)
        np.testing.assert_allclose(found, whole, atol=1e-6)
    assert abs(len(whole) - len(expected)) <= 1
    middle = slice(200, 31_000)
    np.testing.assert_allclose(whole[middle], expected[middle], atol=2e-3)


def test_ten_minutes_of_resampling_has_no_drift() -> None:
    decoder = PcmDecoder(44_100)
    received = sum(len(decoder.silence(441_001)) for _ in range(60)) + len(decoder.close())
    assert abs(received - 60 * 441_001 * 160 / 441) <= 1


def test_lost_samples_are_silence_of_the_same_length() -> None:
    decoder = PcmDecoder(48_000)
    parts = [decoder.decode(as_pcm(tone(48_000, 0.1))), decoder.silence(4800), decoder.decode(b""), decoder.close()]
    joined = np.concatenate(parts)
    assert abs(len(joined) - 3200) <= 1
    assert np.abs(joined[:1500]).max() > 0.4
    assert np.abs(joined[1700:]).max() < 0.01
