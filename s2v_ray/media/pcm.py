"""Raw PCM that arrives in chunks of any size -> 16 kHz mono, with the resampler's state kept between chunks."""

from __future__ import annotations

import av
import numpy as np

from s2v_ray.media.timing import SAMPLE_RATE

BYTES_PER_SAMPLE = 2


class PcmDecoder:
    """Decodes a stream of 16-bit signed little-endian mono PCM.

    A chunk may end within a sample. The resampler of FFmpeg keeps a few samples back, about a millisecond, until more
    arrive; the length of the whole result is that of the input times the ratio of the rates, so nothing drifts.

    Args:
        rate: samples per second of the input.

    Attributes:
        rate: as given.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._odd = b""
        self._resampler = (
            None if rate == SAMPLE_RATE else av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE)
        )

    def decode(self, data: bytes) -> np.ndarray:
        """Decodes a chunk to float32 ``[N]``, 16 kHz in [-1, 1]."""
        data = self._odd + data
        whole = len(data) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE
        self._odd = data[whole:]
        samples = np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768.0
        return self._resample(samples)

    def silence(self, samples: int) -> np.ndarray:
        """Decodes ``samples`` samples of silence, of the input's rate, in place of lost ones."""
        self._odd = b""
        return self._resample(np.zeros(samples, np.float32))

    def close(self) -> np.ndarray:
        """Returns the samples that the resampler kept back, float32 ``[N]``."""
        if self._resampler is None:
            return np.zeros(0, np.float32)
        return _join(self._resampler.resample(None))

    def _resample(self, samples: np.ndarray) -> np.ndarray:
        if self._resampler is None or not len(samples):
            return samples
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = self.rate
        return _join(self._resampler.resample(frame))


def _join(frames: list[av.AudioFrame]) -> np.ndarray:
    parts = [frame.to_ndarray()[0] for frame in frames]
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return joined.clip(-1.0, 1.0).astype(np.float32)
