"""Decoding of untrusted files: limits of time and length, and errors that say what to send."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest

from s2v_ray.media import upload
from s2v_ray.media.audio import read_speech
from s2v_ray.media.upload import AudioTooLongError, read_upload
from s2v_ray.media.video import write_mp4
from tests.helpers.sounds import speech, wav


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 1), (44_100, 2), (48_000, 1)])
def test_the_samples_are_those_of_a_trusted_file(tmp_path: Path, rate: int, channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (rate, channels))
    data = wav(samples, rate)
    (tmp_path / "a.wav").write_bytes(data)
    expected = read_speech(tmp_path / "a.wav")
    np.testing.assert_allclose(read_upload(io.BytesIO(data), 5.0), expected, atol=1e-5)


def test_a_video_gives_its_audio(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 25, speech(1.0))
    assert len(read_upload(io.BytesIO((tmp_path / "a.mp4").read_bytes()), 5.0)) == pytest.approx(16_000, abs=1024)


def test_audio_that_is_too_long_or_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wav(speech(2.0))
    assert len(read_upload(io.BytesIO(data), 2.0)) == 32_000
    with pytest.raises(AudioTooLongError, match="longer than the 1.5 s that are allowed"):
        read_upload(io.BytesIO(data), 1.5)
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(AudioTooLongError, match="takes too long to decode: send it as WAV, FLAC or MP3"):
        read_upload(io.BytesIO(data), 5.0, work_seconds=5.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read as sound"),
        (b"no sound at all" * 100, "cannot be read as sound"),
        (wav(speech(0.5))[:30], "cannot be read as sound"),
        (wav(speech(0.5), 1_000), "1 channels at 1000 samples a second are not supported"),
        (wav(np.zeros(0)), "has no sound"),
    ],
    ids=["empty", "no media", "truncated", "rate", "no samples"],
)
def test_unusable_files(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_upload(io.BytesIO(data), 5.0)


def test_a_video_without_audio(tmp_path: Path) -> None:
    write_mp4(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)] * 5, None)
    with pytest.raises(ValueError, match="the file has no sound"):
        read_upload(io.BytesIO((tmp_path / "a.mp4").read_bytes()), 5.0)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(speech(0.5)))
    for text in (f"ffconcat version 1.0\nfile {tmp_path}/a.wav\n", f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/a.wav\n"):
        with pytest.raises(ValueError, match="cannot be read as sound"):
            read_upload(io.BytesIO(text.encode()), 5.0)


def test_the_decoder_gets_no_name(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(speech(0.5)))
    with path.open("rb") as file:
        assert not hasattr(upload._AnonymousFile(file), "name")
        assert len(read_upload(file, 5.0)) == 8_000
