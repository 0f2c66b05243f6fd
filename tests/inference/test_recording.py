"""A live session from a file or a microphone to an MP4."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from s2v_ray.inference.live import LiveRequest
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.recording import at_own_speed, from_microphone, record_live
from s2v_ray.media.audio import split_blocks
from s2v_ray.media.video import read_video
from tests.helpers.http import comment_of
from tests.helpers.sounds import speech


def test_a_file_is_read_at_its_own_speed() -> None:
    now = [100.0]
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    chunks = []
    for chunk in at_own_speed(speech(0.1), threading.Event(), lambda: now[0], sleep):
        chunks.append((len(chunk), round(now[0] - 100, 6)))
        now[0] += 0.005 if len(chunks) < 3 else 0.03  # work between the chunks; from the third on longer than a chunk
    assert chunks == [(320, 0.02), (320, 0.04), (320, 0.06), (320, 0.09), (320, 0.12)]
    assert waits == pytest.approx([0.02, 0.015, 0.015, 0.0, 0.0])


def test_a_stop_ends_the_speech() -> None:
    stop, received = threading.Event(), []
    for chunk in at_own_speed(speech(1.0), stop, sleep=lambda _: None):
        received.append(chunk)
        if len(received) == 4:
            stop.set()
    assert len(received) == 4


def test_frames_and_audio_are_in_the_file(predictor: Predictor, tmp_path: Path) -> None:
    sound = speech(1.01)
    found = record_live(predictor, LiveRequest(), split_blocks(sound, 700), str(tmp_path / "out.mp4"))
    assert (found.frames, found.seconds, found.lost_seconds) == (26, 1.04, 0.0)
    assert 0 < found.latency_ms <= found.latency_p95_ms < 10_000
    video = read_video(tmp_path / "out.mp4")
    assert len(video.frames) == 26
    assert "synthetic" in comment_of((tmp_path / "out.mp4").read_bytes())
    assert abs(np.corrcoef(np.abs(video.speech[:16_000]), np.abs(sound[:16_000]))[0, 1]) > 0.8


def test_without_speech_there_is_no_file(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there was no speech"):
        record_live(predictor, LiveRequest(), [], str(tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()


def test_an_error_of_the_source_leaves_an_earlier_file(predictor: Predictor, tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield speech(1.0)
        raise OSError("unplugged")

    (tmp_path / "out.mp4").write_bytes(b"earlier")
    with pytest.raises(OSError, match="unplugged"):
        record_live(predictor, LiveRequest(), broken(), str(tmp_path / "out.mp4"))
    assert (tmp_path / "out.mp4").read_bytes() == b"earlier"


def test_a_microphone_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ValueError, match=r"sounddevice .* pip install 's2v_ray\[microphone\]', or name a speech file"):
        next(from_microphone(threading.Event()))


class Stream:
    """What is used of sounddevice.InputStream."""

    def __init__(self, **options: Any) -> None:
        assert options["samplerate"] == 16_000 and options["channels"] == 1

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, frames: int) -> tuple[np.ndarray, bool]:
        return np.full((frames, 1), 0.25, np.float32), False


def test_chunks_of_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(InputStream=Stream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    stop = threading.Event()
    chunks = []
    for chunk in from_microphone(stop):
        chunks.append(chunk)
        if len(chunks) == 3:
            stop.set()
    assert [chunk.shape for chunk in chunks] == [(320,)] * 3
    assert chunks[0][0] == 0.25


def test_a_missing_microphone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: Any) -> None:
        raise RuntimeError("no default input device")

    module = SimpleNamespace(InputStream=missing, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with pytest.raises(ValueError, match="cannot be used: no default input device"):
        next(from_microphone(threading.Event()))
