"""Detection of speech in audio, by Silero VAD (a kept model of voice activity; the package contains its weights)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch

from s2v_ray.media.timing import SAMPLE_RATE


def speech_share(audio: np.ndarray) -> float:
    """Returns the share of the time in which there is speech, in [0, 1].

    Args:
        audio: float32 ``[N]``, 16 kHz mono in [-1, 1].

    Raises:
        ValueError: the package silero-vad is not installed.
    """
    model = load_detector()
    from silero_vad import get_speech_timestamps

    parts = get_speech_timestamps(torch.from_numpy(audio), model, sampling_rate=SAMPLE_RATE)
    return float(sum(part["end"] - part["start"] for part in parts) / len(audio))


@functools.cache
def load_detector() -> Any:
    """Loads the process's detector.

    Raises:
        ValueError: the package silero-vad is not installed.
    """
    threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad
    except ImportError:
        raise ValueError("ingest.min_speech needs the package silero-vad: pip install 's2v_ray[vad]'") from None
    finally:
        torch.set_num_threads(threads)  # its import sets 1
    return load_silero_vad(onnx=True)
