"""Sound: any file PyAV reads -> 16 kHz mono, and speech -> log-mel. The same code for ingest, training and serving."""

from __future__ import annotations

import functools
import importlib
import math
import sys
from collections.abc import Iterator
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
        SAMPLE_RATE, n_fft=N_FFT, win_length=MEL_WINDOW, hop_length=MEL_HOP, n_mels=MEL_BINS, mel_scale="slaney", center=False
    ).to(device)


def resample(sound: np.ndarray, rate: int, to: int = SAMPLE_RATE) -> np.ndarray:
    """float ``[N]`` at ``rate`` samples a second -> float32 ``[ceil(N * to / rate)]`` at ``to``; windowed sinc, no delay.

    Raises:
        ValueError: the rates have so little in common that the filter would not fit into memory.
    """
    if (rate // math.gcd(rate, to)) * (to // math.gcd(rate, to)) > MAX_KERNEL:
        raise ValueError(f"sound at {rate} samples a second cannot be brought to {to}: resample it to a usual rate first")
    samples = torch.from_numpy(np.ascontiguousarray(sound, np.float32))
    return samples.numpy() if rate == to or not len(sound) else torchaudio.functional.resample(samples, rate, to).numpy()


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
        rate, start, count, complete = 0, 0.0, 0, True
        try:
            for frame in container.decode(audio=0):
                if not blocks:
                    rate, start = frame.sample_rate, frame.time or 0.0
                if frame.sample_rate != rate:
                    break  # another recording was appended: what follows cannot be placed
                block = _mono(frame)
                due = count if frame.time is None else round((frame.time - start) * rate)
                if due - count > MAX_DRIFT * rate:
                    blocks.append(np.zeros(due - count, np.float32))
                    count = due
                elif count - due > MAX_DRIFT * rate:
                    block = block[count - due :]
                blocks.append(block)
                count += len(block)
        except av.FFmpegError:
            complete = False
    if not count:
        return None
    samples = np.concatenate(blocks)
    peak = float(np.abs(samples).max()) if np.isfinite(samples).all() else float("inf")
    clean = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0).clip(-1.0, 1.0)
    return Sound(resample(clean, rate).clip(-1.0, 1.0), start, peak, complete)


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


def _mono(frame: AudioFrame) -> np.ndarray:
    """float32 ``[N]`` in [-1, 1]: the mean of the channels."""
    data: np.ndarray = frame.to_ndarray()
    channels = data if frame.format.is_planar else data.reshape(-1, len(frame.layout.channels)).T
    if data.dtype == np.uint8:  # 128 is silence
        channels = channels.astype(np.float32) / 128.0 - 1.0
    elif np.issubdtype(data.dtype, np.integer):
        channels = channels / float(2 ** (8 * data.dtype.itemsize - 1))
    return channels.mean(axis=0, dtype=np.float64).astype(np.float32)


def blocks_of(sound: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``sound`` in consecutive blocks of ``size``; the last may be shorter."""
    for i in range(0, len(sound), size):
        yield sound[i : i + size]
