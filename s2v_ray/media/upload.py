"""Audio of uploaded files, decoded in bounded time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import av
import numpy as np

from s2v_ray.media.audio import decode_blocks, resample_blocks, to_finite
from s2v_ray.media.timing import SAMPLE_RATE

CONTAINERS = "wav,w64,aiff,caf,au,mp3,aac,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,amr,avi,asf,mpegts,mpeg"
"""Container formats that are accepted. None of them can refer to other files or addresses."""
MIN_RATE, MAX_RATE = 4_000, 192_000
"""Sample rates that are accepted, Hz."""
MAX_CHANNELS = 8
"""Audio channels that are accepted."""

_OPTIONS = {
    "format_whitelist": CONTAINERS,
    "protocol_whitelist": "none",
    "max_pixels": "1",
    "max_samples": str(2 * MAX_RATE),
    "threads": "1",
    "max_streams": "16",
    "probesize": "1000000",
    "analyzeduration": "2000000",
}
# FFmpeg learns nothing from the first second of a WAV file's samples, and the packets of a WAV file may be larger.
_WAV_OPTIONS = {"probesize": "100000", "max_size": "65536"}


class AudioTooLongError(ValueError):
    """The audio is longer than allowed, or takes too long to decode."""


def read_upload(file: BinaryIO, max_seconds: float, work_seconds: float = 20.0) -> np.ndarray:
    """Reads the audio of an untrusted file in bounded time and memory, whatever the file claims to be.

    Only ``CONTAINERS`` are tried, no other file or address is opened, video is never decoded, and decoding stops at
    ``max_seconds`` of audio.

    Args:
        file: opened for reading at its beginning, seekable.
        max_seconds: longest audio that is accepted.
        work_seconds: longest time that decoding may take.

    Returns:
        float32 ``[N]``, 16 kHz mono in [-1, 1].

    Raises:
        AudioTooLongError: the audio is longer than ``max_seconds``, or decoding takes more than ``work_seconds``.
        ValueError: the file is not a media file, is truncated, has no audio, or has an unsupported sample rate.
    """
    deadline = time.monotonic() + work_seconds
    options = _OPTIONS | (_WAV_OPTIONS if file.read(4) == b"RIFF" else {})
    file.seek(0)
    try:
        with av.open(_AnonymousFile(file), "r", options=options, metadata_errors="ignore") as container:
            rate = _check_stream(container)
            blocks = map(to_finite, _merge_blocks(_decode_until(container, rate, deadline), rate // 2))
            samples = _collect(resample_blocks(blocks, rate), max_seconds)
    except (av.FFmpegError, EOFError, MemoryError) as e:
        raise ValueError(f"the file cannot be read as sound: {getattr(e, 'strerror', None) or 'it is damaged'}") from e
    if not len(samples):
        raise ValueError("the file has no sound")
    return samples


def _check_stream(container: av.container.InputContainer) -> int:
    """Returns the sample rate of the first audio track.

    Raises:
        ValueError: there is no audio track, or its codec, rate or number of channels is not supported.
    """
    if not container.streams.audio:
        raise ValueError("the file has no sound")
    context = container.streams.audio[0].codec_context
    if context is None:
        raise ValueError("the codec of the file's audio is not supported: send WAV, FLAC or MP3")
    rate, channels = context.sample_rate, context.channels
    if not MIN_RATE <= rate <= MAX_RATE or channels > MAX_CHANNELS:
        raise ValueError(
            f"{channels} channels at {rate} samples a second are not supported: send mono or stereo at 8000 to 48000"
        )
    return rate


def _collect(blocks: Iterable[np.ndarray], max_seconds: float) -> np.ndarray:
    limit = round(max_seconds * SAMPLE_RATE)
    out = np.empty(limit, np.float32)  # pages that are not written take no memory
    count = 0
    for block in blocks:
        if count + len(block) > limit:
            raise AudioTooLongError(f"the sound is longer than the {max_seconds:g} s that are allowed")
        out[count : count + len(block)] = block.clip(-1.0, 1.0)
        count += len(block)
    return out[:count]


def _decode_until(container: av.container.InputContainer, rate: int, deadline: float) -> Iterator[np.ndarray]:
    """Decodes until ``deadline`` (of ``time.monotonic``), and checks that the rate is the one of the header."""
    for block in decode_blocks(container):
        if time.monotonic() > deadline:
            raise AudioTooLongError("the sound takes too long to decode: send it as WAV, FLAC or MP3")
        if block.rate != rate:
            raise ValueError("the file is damaged: its sample rate differs from the one in its header")
        yield block.samples


def _merge_blocks(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields the same samples in blocks of at least ``size`` (except the last)."""
    pending: list[np.ndarray] = []
    for block in blocks:
        pending.append(block)
        if sum(map(len, pending)) >= size:
            yield np.concatenate(pending)
            pending.clear()
    if pending:
        yield np.concatenate(pending)


class _AnonymousFile:
    """A file object with only ``read``, ``seek`` and ``tell``, so that FFmpeg does not get the file's name."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
