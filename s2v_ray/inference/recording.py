"""A live session on this machine: from a file at its own speed, or from a microphone, to an MP4."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2v_ray import storage
from s2v_ray.inference.live import LiveFrame, LiveRequest, LiveSession
from s2v_ray.inference.predictor import Predictor
from s2v_ray.media.audio import split_blocks
from s2v_ray.media.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from s2v_ray.media.video import SYNTHETIC, Mp4Writer

CHUNK_SAMPLES = SAMPLES_PER_FRAME // 2
"""Samples of a chunk: 20 ms."""


@dataclass(frozen=True)
class LiveRecording:
    """Result of ``record_live``.

    Attributes:
        output: path or URI of the MP4.
        frames: number of frames.
        seconds: duration of the video.
        lost_seconds: seconds of lost audio, in place of which there is silence.
        latency_ms: from the arrival of a frame's first sample to its frame, look-ahead included, milliseconds: median.
        latency_p95_ms: its 95th percentile.
    """

    output: str
    frames: int
    seconds: float
    lost_seconds: float
    latency_ms: float
    latency_p95_ms: float


def at_own_speed(
    speech: np.ndarray,
    stop: threading.Event,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[np.ndarray]:
    """Yields speech in chunks, each when its last sample would have been spoken, until ``stop`` is set."""
    began, sent = clock(), 0
    for chunk in split_blocks(speech, CHUNK_SAMPLES):
        sent += len(chunk)
        sleep(max(0.0, began + sent / SAMPLE_RATE - clock()))
        if stop.is_set():
            return
        yield chunk


def from_microphone(stop: threading.Event) -> Iterator[np.ndarray]:
    """Yields chunks of the default microphone until ``stop`` is set.

    Raises:
        ValueError: the package sounddevice or its library is missing, or there is no microphone.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as e:
        raise ValueError(
            f"the microphone needs the package sounddevice and the library PortAudio ({e}): "
            "pip install 's2v_ray[microphone]', or name a speech file"
        ) from e
    try:
        stream = sounddevice.InputStream(
            samplerate=SAMPLE_RATE, channels=1, dtype="float32", blocksize=CHUNK_SAMPLES, latency="low"
        )
    except sounddevice.PortAudioError as e:
        raise ValueError(f"the microphone cannot be used: {e}") from e
    with stream:
        while not stop.is_set():
            block, _ = stream.read(CHUNK_SAMPLES)
            yield block[:, 0].copy()


def record_live(
    predictor: Predictor, request: LiveRequest, chunks: Iterable[np.ndarray], out_path: str
) -> LiveRecording:
    """Runs a live session and writes its frames and audio as an MP4 with a synthetic tag.

    Args:
        predictor: the bundle.
        request: codes and seed.
        chunks: float32 ``[N]`` each, 16 kHz mono, in the order and at the time of their recording.
        out_path: path or URI of the MP4. An existing file is replaced only when the new one is complete.

    Raises:
        ValueError: the request cannot be used, there is no speech, or the target cannot be written.
    """
    session = LiveSession(predictor, request)
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
        part = Path(folder) / "part.mp4"
        writer = _LiveWriter(part)
        try:
            for chunk in chunks:
                session.push(chunk)
                writer.add_audio(chunk, session.received)
                writer.add_frames(session.drain())
            session.finish()
            writer.add_frames(session.drain())
            latency = writer.close()
        except BaseException:
            writer.abort()
            raise
        storage.write_bytes(out_path, part.read_bytes())
    median, late = (float(np.percentile(latency, p)) for p in (50, 95))
    lost = session.lost / SAMPLE_RATE
    return LiveRecording(out_path, session.frames, session.frames / FPS, lost, 1000 * median, 1000 * late)


class _LiveWriter:
    """Writes an MP4 whose frames are later than its audio, and measures by how much."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Mp4Writer | None = None
        self._audio: list[np.ndarray] = []  # before the first frame
        self._arrivals: deque[tuple[int, float]] = deque()  # samples received in total, and when
        self._latency: list[float] = []

    def add_audio(self, chunk: np.ndarray, received: int) -> None:
        self._arrivals.append((received, time.monotonic()))
        if self._writer is None:
            self._audio.append(chunk)
        else:
            self._writer.add_audio(chunk)

    def add_frames(self, frames: Iterable[LiveFrame]) -> None:
        for frame in frames:
            if self._writer is None:
                self._writer = Mp4Writer(str(self._path), frame.pixels, metadata=SYNTHETIC)
                for chunk in self._audio:
                    self._writer.add_audio(chunk)
                self._audio.clear()
            self._writer.add_frame(frame.pixels)
            first = frame.index * SAMPLES_PER_FRAME
            while len(self._arrivals) > 1 and self._arrivals[0][0] <= first:
                self._arrivals.popleft()
            self._latency.append(time.monotonic() - self._arrivals[0][1])

    def close(self) -> list[float]:
        """Finishes the file; returns the latency of each frame in seconds."""
        if self._writer is None:
            raise ValueError("there was no speech")
        self._writer.close()
        return self._latency

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()
