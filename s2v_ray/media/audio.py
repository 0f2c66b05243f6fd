"""Audio: any file that PyAV reads -> 16 kHz mono, and speech -> log-mel spectrogram."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.audio.frame import AudioFrame
from torch import Tensor

from s2v_ray.media.timing import MEL_BINS, MEL_HOP, MEL_WINDOW, SAMPLE_RATE

N_FFT = 512
"""Points of the Fourier transform of the mel spectrogram."""
MEL_PAD = (N_FFT - MEL_HOP) // 2
"""Zeros before and after speech that centre mel frame m on its own 10 ms of samples."""
LOG_FLOOR = 1e-5
"""Added to mel energies before the logarithm."""
LOG_MEAN, LOG_STD = -6.0, 4.0
"""Mean and standard deviation of log(mel + LOG_FLOOR) over 33 GRID clips (-6.06, 4.30), rounded.

They are constants, not statistics of the utterance, so that a recording can be processed in chunks.
"""
MAX_DRIFT = 0.02
"""Seconds between a timestamp and the running count of samples that count as a gap or an overlap."""
MAX_KERNEL = 2**25
"""Largest number of taps of the resampling filter.

The least favourable common rate (22,255 Hz) needs 4451 * 3200; a rate that was corrupted by one bit can need 2**45.
"""


def _import_torchaudio() -> ModuleType:
    """Imports torchaudio, without its compiled extension where that does not load.

    The wheels on PyPI are linked with CUDA: on a CPU build of torch, ``import torchaudio`` raises OSError while it
    loads
    ``lib/_torchaudio*.so``, although everything used here is plain PyTorch. torchaudio runs without the extension
    when it finds no file for it, so after that error, and only then, it is imported again with an empty library
    folder.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError:
        utils = sys.modules["torchaudio._extension.utils"]
        missing = Path(__file__).parent / "no-such-folder"
        utils._LIB_DIR = missing  # type: ignore[attr-defined]  # a private variable of torchaudio
        return importlib.import_module("torchaudio")


torchaudio = _import_torchaudio()


@dataclass(frozen=True)
class AudioTrack:
    """The decoded audio of a file.

    Attributes:
        samples: float32 ``[N]``, 16 kHz mono in [-1, 1]; gaps between the file's timestamps are silence.
        start: time of the first sample on the file's clock, seconds.
        peak: largest magnitude before clipping to [-1, 1]; inf where a sample was not finite.
        complete: False where decoding failed before the end of the track.
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
    """Computes the log-mel spectrogram.

    Mel frames 4t..4t+3 belong to video frame t. Each depends on no sample outside its 25 ms Hann window: the signal
    is padded with zeros at both ends, and nothing is normalised over the utterance, so a recording can be processed
    in chunks.

    Args:
        speech: float ``[B, T * 640]`` in [-1, 1].

    Returns:
        float32 ``[B, 80, 4T]``: ``(log(mel + 1e-5) + 6) / 4``, with roughly zero mean and unit variance on speech.

    Raises:
        ValueError: ``speech`` is not ``[B, T * 640]``.
    """
    if speech.ndim != 2 or speech.shape[1] == 0 or speech.shape[1] % MEL_HOP:
        raise ValueError(f"speech must be [B, N] with N a multiple of {MEL_HOP}, not {list(speech.shape)}")
    return padded_log_mel(F.pad(speech.float(), (MEL_PAD, MEL_PAD)))


def padded_log_mel(samples: Tensor) -> Tensor:
    """Computes the mel frames of ``log_mel`` whose ``N_FFT`` samples are all present: no padding is added.

    Args:
        samples: float32 ``[B, N_FFT + (N - 1) * 160]``.

    Returns:
        float32 ``[B, 80, N]``.
    """
    with torch.autocast(samples.device.type, enabled=False):
        mel: Tensor = _mel_transform(samples.device)(samples)
        return ((mel + LOG_FLOOR).log() - LOG_MEAN) / LOG_STD


@functools.cache
def _mel_transform(device: torch.device) -> torch.nn.Module:
    transform: torch.nn.Module = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE,
        n_fft=N_FFT,
        win_length=MEL_WINDOW,
        hop_length=MEL_HOP,
        n_mels=MEL_BINS,
        mel_scale="slaney",
        center=False,
    )
    return transform.to(device)


def resample(samples: np.ndarray, rate: int, to: int = SAMPLE_RATE) -> np.ndarray:
    """Resamples with a windowed sinc, without delay.

    Args:
        samples: float ``[N]`` at ``rate`` samples per second.
        rate: rate of ``samples``, Hz.
        to: rate of the result, Hz.

    Returns:
        float32 ``[ceil(N * to / rate)]``.

    Raises:
        ValueError: the greatest common divisor of the rates is so small (44,101 and 16,000, for example) that the
            filter bank would take gigabytes.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    if rate == to or not len(samples):
        return tensor.numpy()
    if not 0 < rate * to // math.gcd(rate, to) ** 2 <= MAX_KERNEL:
        raise ValueError(f"a sample rate of {rate} Hz is not supported: convert the audio to {to}, 44100 or 48000 Hz")
    resampled: np.ndarray = torchaudio.functional.resample(tensor, rate, to).numpy()
    return resampled


def resample_blocks(blocks: Iterable[np.ndarray], rate: int, to: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Resamples a stream of blocks at constant memory; the concatenated result equals ``resample`` of the whole.

    Each block is resampled together with as many neighbouring samples as the filter spans.
    """
    step = rate // math.gcd(rate, to)
    context = 12 * max(rate, to) // to + 12  # twice the width of the six zero crossings on either side
    context = -(-context // step) * step
    pending, done = np.zeros(0, np.float32), 0  # ``pending`` starts with ``done`` samples that were emitted already
    for block in blocks:
        pending = np.concatenate([pending, block])
        ready = (len(pending) - done - context) // step * step
        if ready >= rate // 4:
            resampled = resample(pending[: done + ready + context], rate, to)
            yield resampled[done * to // rate : (done + ready) * to // rate]
            keep = min(context, done + ready)
            pending, done = pending[done + ready - keep :], keep
    if len(pending) > done:
        yield resample(pending, rate, to)[done * to // rate :]


def read_speech(path: str | Path) -> np.ndarray:
    """Reads the audio of any file that PyAV supports (WAV, FLAC, MP3, a video, ...).

    Channels are averaged. Samples that are not finite become 0; samples outside [-1, 1] are clipped.

    Returns:
        float32 ``[N]``, 16 kHz mono in [-1, 1].

    Raises:
        ValueError: the file is missing, is not a media file, or has no audio.
    """
    audio = read_audio(path)
    if audio is None or not len(audio.samples):
        raise ValueError(f"{path} has no sound")
    return audio.samples


def read_audio(path: str | Path) -> AudioTrack | None:
    """Reads the first audio track of a file with its start time; None where the file has none.

    Raises:
        ValueError: the file is missing or is not a media file.
    """
    with open_media(path) as container:
        if not container.streams.audio:
            return None
        blocks: list[np.ndarray] = []
        rate, start, complete = 0, 0.0, True
        try:
            for block in decode_blocks(container):
                rate, start = block.rate, block.start
                blocks.append(block.samples)
        except av.FFmpegError:
            complete = False
    if not blocks:
        return None
    samples = np.concatenate(blocks)
    peak = float(np.abs(samples).max()) if np.isfinite(samples).all() else float("inf")
    return AudioTrack(resample(to_finite(samples), rate).clip(-1.0, 1.0), start, peak, complete)


@dataclass(frozen=True)
class AudioBlock:
    """Some consecutive samples of a track.

    Attributes:
        rate: samples per second of the track.
        start: time of the track's first sample, seconds.
        samples: float32 ``[N]``, mono, as decoded.
    """

    rate: int
    start: float
    samples: np.ndarray


def decode_blocks(container: av.container.InputContainer) -> Iterator[AudioBlock]:
    """Decodes the first audio track in blocks; gaps between timestamps become silence, overlaps are dropped."""
    rate, start, count = 0, 0.0, 0
    for frame in container.decode(audio=0):
        if not rate:
            rate, start = frame.sample_rate, frame.time or 0.0
        if frame.sample_rate != rate:
            return  # another recording was appended; its position in time is unknown
        samples = _to_mono(frame)
        expected = count if frame.time is None else round((frame.time - start) * rate)
        if expected - count > MAX_DRIFT * rate:
            while count < expected:  # in blocks of at most a second, because a corrupt timestamp can be years ahead
                gap = np.zeros(min(expected - count, rate), np.float32)
                count += len(gap)
                yield AudioBlock(rate, start, gap)
        elif count - expected > MAX_DRIFT * rate:
            samples = samples[count - expected :]
        if len(samples):
            count += len(samples)
            yield AudioBlock(rate, start, samples)


def to_finite(samples: np.ndarray) -> np.ndarray:
    """Replaces samples that are not finite by 0 and clips the rest to [-1, 1]."""
    finite: np.ndarray = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0).clip(-1.0, 1.0)
    return finite


def open_media(path: str | Path) -> av.container.InputContainer:
    """Opens a media file for reading.

    Raises:
        ValueError: the file is missing or is not a media file.
    """
    try:
        return av.open(str(path), metadata_errors="ignore")
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except av.FFmpegError as e:
        raise ValueError(f"{path} cannot be read as sound or video: {e.strerror}") from e


def split_blocks(samples: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Splits ``samples`` into consecutive blocks of ``size``; the last may be shorter."""
    for i in range(0, len(samples), size):
        yield samples[i : i + size]


_SAMPLE_TYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}


def _to_mono(frame: AudioFrame) -> np.ndarray:
    """Returns the mean of the channels, float32 ``[N]`` in [-1, 1]."""
    kind = _SAMPLE_TYPES.get(frame.format.name.removesuffix("p"))
    if kind is not None and frame.layout.nb_channels == 1:
        # The buffer is read directly: PyAV's own copy takes most of the time of decoding.
        plane = frame.planes[0]
        channels = np.frombuffer(plane, kind, frame.samples)[None]  # type: ignore[call-overload]  # a plane is a buffer
    else:
        data: np.ndarray = frame.to_ndarray()
        channels = data if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels).T
    if channels.dtype == np.uint8:  # 128 is silence
        channels = channels.astype(np.float32) / 128.0 - 1.0
    elif channels.dtype.kind == "i":
        channels = channels / float(2 ** (8 * channels.dtype.itemsize - 1))
    mono: np.ndarray = channels[0] if len(channels) == 1 else channels.mean(axis=0, dtype=np.float64)
    return mono.astype(np.float32)
