"""Sound: any file PyAV reads -> 16 kHz mono, and speech -> log-mel. The same code for ingest, training and serving."""

from __future__ import annotations

import functools
import importlib
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.audio.frame import AudioFrame
from torch import Tensor

from s2v_ray.media.timing import MEL_BINS, MEL_HOP, MEL_WINDOW, SAMPLE_RATE

N_FFT = 512
_PAD = (N_FFT - MEL_HOP) // 2  # puts the middle of mel frame m over the middle of its own 10 ms of samples
LOG_FLOOR = 1e-5
# Mean and deviation of log(mel + LOG_FLOOR) over 33 GRID clips (-6.06, 4.30), rounded. Fixed, so that chunks of a recording can be computed apart.
LOG_MEAN, LOG_STD = -6.0, 4.0
MAX_DRIFT = 0.02
"""Seconds by which a packet's timestamp may differ from the running count of samples before it is believed (a gap or an overlap)."""
MAX_KERNEL = 2**25
"""Taps of the resampling filter, about: 4451 * 3200 for the oddest usual rate (22,255 Hz), 2 ** 45 for what a flipped bit makes of one."""


def _import_torchaudio() -> ModuleType:
    """torchaudio, without its compiled extension where that does not load.

    The wheels on PyPI are linked with CUDA: on a CPU build of torch, ``import torchaudio`` raises OSError while it loads
    ``lib/_torchaudio*.so``, though everything used here is plain PyTorch. torchaudio itself runs without the extension when it
    finds no file for it, so after that error, and only then, it is shown an empty library folder and imported again.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError:
        utils = sys.modules["torchaudio._extension.utils"]
        utils._LIB_DIR = Path(__file__).parent / "no-such-folder"  # type: ignore[attr-defined]
        return importlib.import_module("torchaudio")


torchaudio = _import_torchaudio()


@dataclass(frozen=True)
class Sound:
    """A file's sound.

    Attributes:
        samples: float32 ``[N]``, 16 kHz mono in [-1, 1]; gaps in the file's timestamps are silence.
        start: time of the first sample on the file's clock, seconds.
        peak: largest magnitude before it was clipped to [-1, 1]; inf where a sample was not finite.
        complete: False where decoding broke off.
    """

    samples: np.ndarray
    start: float
    peak: float
    complete: bool

    @property
    def end(self) -> float:
        """Time just after the last sample, seconds."""
        return self.start + len(self.samples) / SAMPLE_RATE


def log_mel(speech: Tensor) -> Tensor:
    """Log-mel spectrogram.

    Mel frames 4t..4t+3 lie under video frame t, and each depends on no sample outside its 25 ms Hann window: beyond the ends
    there is silence, and nothing is normalised by the utterance, so a recording can be computed in chunks.

    Args:
        speech: float ``[B, T * 640]`` in [-1, 1].

    Returns:
        float32 ``[B, 80, 4T]``: ``(log(mel + 1e-5) + 6) / 4``, roughly zero mean and unit variance on speech.

    Raises:
        ValueError: ``speech`` is not ``[B, T * 640]``.
    """
    if speech.ndim != 2 or speech.shape[1] == 0 or speech.shape[1] % MEL_HOP:
        raise ValueError(f"speech must be [B, N] with N a multiple of {MEL_HOP}, not {list(speech.shape)}")
    with torch.autocast(speech.device.type, enabled=False):
        mel = _mel(speech.device)(F.pad(speech.float(), (_PAD, _PAD)))
        return ((mel + LOG_FLOOR).log() - LOG_MEAN) / LOG_STD


@functools.cache
def _mel(device: torch.device) -> torch.nn.Module:
    return torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE,
        n_fft=N_FFT,
        win_length=MEL_WINDOW,
        hop_length=MEL_HOP,
        n_mels=MEL_BINS,
        mel_scale="slaney",
        center=False,
    ).to(device)


def resample(sound: np.ndarray, rate: int, to: int = SAMPLE_RATE) -> np.ndarray:
    """float ``[N]`` at ``rate`` samples a second -> float32 ``[ceil(N * to / rate)]`` at ``to``; windowed sinc, no delay.

    Raises:
        ValueError: two rates with hardly a common divisor (44,101 and 16,000, say), whose filter bank would take gigabytes.
    """
    samples = torch.from_numpy(np.ascontiguousarray(sound, np.float32))
    if rate == to or not len(sound):
        return samples.numpy()
    if not 0 < rate * to // math.gcd(rate, to) ** 2 <= MAX_KERNEL:
        raise ValueError(
            f"a sample rate of {rate} a second is not supported: convert the sound to {to}, 44100 or 48000 a second"
        )
    return torchaudio.functional.resample(samples, rate, to).numpy()


def resample_blocks(blocks: Iterable[np.ndarray], rate: int, to: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """The same in pieces, at constant memory: each piece is resampled with as much of its neighbours as the filter reaches."""
    step, reach = (
        rate // math.gcd(rate, to),
        12 * max(rate, to) // to + 12,
    )  # twice what the six zero crossings on either side need
    reach = -(-reach // step) * step
    held, lead = np.zeros(0, np.float32), 0  # what is at hand, of which the first ``lead`` samples are done
    for block in blocks:
        held = np.concatenate([held, block])
        ready = (len(held) - lead - reach) // step * step
        if ready >= rate // 4:
            done = resample(held[: lead + ready + reach], rate, to)
            yield done[lead * to // rate : (lead + ready) * to // rate]
            keep = min(reach, lead + ready)
            held, lead = held[lead + ready - keep :], keep
    if len(held) > lead:
        yield resample(held, rate, to)[lead * to // rate :]


def read_speech(path: str | Path) -> np.ndarray:
    """The sound of any file that PyAV reads (WAV, FLAC, MP3, a video, ...), float32 ``[N]``, 16 kHz mono in [-1, 1].

    Channels are averaged; samples that are not finite become 0, those beyond [-1, 1] are clipped.

    Raises:
        ValueError: the file is missing, is no media file, or has no sound.
    """
    sound = read_sound(path)
    if sound is None or not len(sound.samples):
        raise ValueError(f"{path} has no sound")
    return sound.samples


def read_sound(path: str | Path) -> Sound | None:
    """The first sound track of a file with its place in time, or None where the file has none.

    Raises:
        ValueError: the file is missing or is no media file.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        blocks: list[np.ndarray] = []
        rate, start, complete = 0, 0.0, True
        try:
            for rate, start, block in _placed(container):  # noqa: B007
                blocks.append(block)
        except av.FFmpegError:
            complete = False
    if not blocks:
        return None
    samples = np.concatenate(blocks)
    peak = float(np.abs(samples).max()) if np.isfinite(samples).all() else float("inf")
    return Sound(resample(_clean(samples), rate).clip(-1.0, 1.0), start, peak, complete)


def _placed(container: av.container.InputContainer) -> Iterator[tuple[int, float, np.ndarray]]:
    """Rate, time of the first sample, and the next block of the first sound track, float32 mono; what its timestamps leave out comes as silence."""
    rate, start, count = 0, 0.0, 0
    for frame in container.decode(audio=0):
        if not rate:
            rate, start = frame.sample_rate, frame.time or 0.0
        if frame.sample_rate != rate:
            return  # another recording was appended: what follows cannot be placed
        block = _mono(frame)
        due = count if frame.time is None else round((frame.time - start) * rate)
        if due - count > MAX_DRIFT * rate:
            while count < due:  # in pieces: a timestamp can lie years ahead
                gap = np.zeros(min(due - count, rate), np.float32)
                count += len(gap)
                yield rate, start, gap
        elif count - due > MAX_DRIFT * rate:
            block = block[count - due :]
        if len(block):
            count += len(block)
            yield rate, start, block


def _clean(samples: np.ndarray) -> np.ndarray:
    return np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0).clip(-1.0, 1.0)


CONTAINERS = "wav,w64,aiff,caf,au,mp3,aac,flac,ogg,matroska,webm,mov,mp4,m4a,3gp,amr,avi,asf,mpegts,mpeg"
"""Containers that strangers may send. None of them names other files or addresses."""
MAX_RATE = 192_000


class TooLong(ValueError):
    """The sound goes on for longer than is allowed, or takes too long to decode."""


def read_upload(file: BinaryIO, max_seconds: float, work_seconds: float = 20.0) -> np.ndarray:
    """The sound of a file from a stranger, as ``read_speech``, in bounded time and memory whatever the file claims to be.

    Only ``CONTAINERS`` are tried, no other file or address is opened, pictures are never decoded, and decoding ends as soon as there is
    more sound than is allowed.

    Args:
        file: open for reading at its beginning, seekable.
        max_seconds: of sound.
        work_seconds: time that decoding may take.

    Raises:
        TooLong: more sound, or more work.
        ValueError: no media file, no sound, broken off, or a sample rate that is not supported.
    """
    until = time.monotonic() + work_seconds
    limit = round(max_seconds * SAMPLE_RATE)
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "none",
        "max_pixels": "1",
        "max_samples": str(2 * MAX_RATE),
        "threads": "1",
    }
    options |= {"max_streams": "16", "probesize": "1000000", "analyzeduration": "2000000"}
    if (
        file.read(4) == b"RIFF"
    ):  # the second of sound that FFmpeg looks into says nothing new of a WAV file, and its packets may be larger
        options |= {"probesize": "100000", "max_size": "65536"}
    file.seek(0)
    try:
        with av.open(_Plain(file), "r", options=options, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise ValueError("the file has no sound")
            context = container.streams.audio[0].codec_context
            if context is None:
                raise ValueError("the file's sound is in a codec that is not known: send WAV, FLAC or MP3")
            rate, channels = context.sample_rate, context.channels
            if not 4_000 <= rate <= MAX_RATE or channels > 8:
                raise ValueError(
                    f"{channels} channels at {rate} samples a second are not supported: send mono or stereo at 8000 to 48000"
                )
            out = np.empty(limit, np.float32)  # pages that are not written take no memory
            count = 0
            for piece in resample_blocks(map(_clean, _joined(_timed(container, rate, until), rate // 2)), rate):
                if count + len(piece) > limit:
                    raise TooLong(f"the sound is longer than the {max_seconds:g} s that are allowed")
                out[count : count + len(piece)] = piece.clip(-1.0, 1.0)
                count += len(piece)
    except (av.FFmpegError, EOFError, MemoryError) as e:
        raise ValueError(f"the file cannot be read as sound: {getattr(e, 'strerror', None) or 'it is damaged'}") from e
    if not count:
        raise ValueError("the file has no sound")
    return out[:count]


def _timed(container: av.container.InputContainer, rate: int, until: float) -> Iterator[np.ndarray]:
    for found, _, block in _placed(container):
        if time.monotonic() > until:
            raise TooLong("the sound takes too long to decode: send it as WAV, FLAC or MP3")
        if found != rate:
            raise ValueError("the file is damaged: its sample rate is not the one that its head says")
        yield block


def _joined(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of at least ``size``, but for the last: codecs give some milliseconds at a time."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= size:
            yield np.concatenate(held)
            held.clear()
    if held:
        yield np.concatenate(held)


class _Plain:
    """What FFmpeg may do with an upload: read and seek. It sees no name."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.seek, self.tell = file.read, file.seek, file.tell


def open_media(path: str | Path) -> av.container.InputContainer:
    """Opens a media file for reading.

    Raises:
        ValueError: the file is missing or is no media file.
    """
    try:
        return av.open(str(path), metadata_errors="ignore")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except av.FFmpegError as e:
        raise ValueError(f"{path} cannot be read as sound or video: {e.strerror}") from e


_SAMPLES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


def _mono(frame: AudioFrame) -> np.ndarray:
    """float32 ``[N]`` in [-1, 1]: the mean of the channels."""
    kind = _SAMPLES.get(frame.format.name.removesuffix("p"))
    if (
        kind is not None and frame.layout.nb_channels == 1
    ):  # most speech; past PyAV's own copy, which takes most of the time of decoding
        channels = np.frombuffer(frame.planes[0], kind, frame.samples)[None]  # type: ignore[call-overload]  # a plane is a buffer
    else:
        data: np.ndarray = frame.to_ndarray()
        channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
    if channels.dtype == np.uint8:  # 128 is silence
        channels = channels.astype(np.float32) / 128.0 - 1.0
    elif channels.dtype.kind == "i":
        channels = channels / float(2 ** (8 * channels.dtype.itemsize - 1))
    return (
        channels[0].astype(np.float32)
        if len(channels) == 1
        else channels.mean(axis=0, dtype=np.float64).astype(np.float32)
    )


def blocks_of(sound: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``sound`` in consecutive blocks of ``size``; the last may be shorter."""
    for i in range(0, len(sound), size):
        yield sound[i : i + size]
