"""The input of one generation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s2v_ray.media.timing import SAMPLES_PER_FRAME, frames_to_samples, samples_to_frames


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """Speech, and codes that replace those predicted from it.

    Attributes:
        speech: float32 ``[N]``, 16 kHz mono in [-1, 1], at least one frame (640 samples).
        identity: identity code ``[D]``, or None for the speech identity. The identity teacher's code of a still image
            gives the image identity.
        emotion: name of one of the bundle's emotions, an emotion code ``[E]``, or None for the emotion predicted from
            the speech.
        still: uint8 ``[S, S, 3]``, aligned to ``media.face.TEMPLATE``. Reference bundles require it, others refuse it.
        take: uint8 ``[S, S, 3]``, likewise aligned: a picture whose take (pose, hair, light, camera) is used; None for
            one that is drawn with the seed. Reference bundles refuse it.
        seed: seed of take and motion. The same request gives the same frames, whatever the chunk sizes are.
        code_frames: number of frames at the start of the speech from which identity and emotion are predicted, or None
            for all frames. A small number bounds the time to the first frame of long speech.
    """

    speech: np.ndarray
    identity: Tensor | None = None
    emotion: str | Tensor | None = None
    still: np.ndarray | None = None
    take: np.ndarray | None = None
    seed: int = 0
    code_frames: int | None = None

    @property
    def frames(self) -> int:
        """Number of frames that are generated: one for each started 40 ms of speech."""
        return samples_to_frames(len(self.speech))


def pad_to_frames(speech: np.ndarray) -> Tensor:
    """Checks speech ``[N]``, clips it to [-1, 1] and pads it with silence to whole frames: float32 ``[T * 640]``.

    Raises:
        ValueError: the speech is not mono, shorter than one frame, or not finite.
    """
    if speech.ndim != 1:
        raise ValueError(f"speech must be mono, of shape [N], not {list(speech.shape)}: average its channels")
    if len(speech) < SAMPLES_PER_FRAME:
        raise ValueError(
            f"the speech has {len(speech)} samples and is shorter than one video frame "
            f"({SAMPLES_PER_FRAME} samples, 40 ms): use longer speech"
        )
    padded = np.zeros(frames_to_samples(samples_to_frames(len(speech))), np.float32)
    np.clip(speech, -1.0, 1.0, out=padded[: len(speech)])  # NaN stays NaN
    if not np.isfinite(padded).all() or np.isinf(speech).any():
        raise ValueError("the speech has samples that are not finite: replace NaN and infinite samples")
    return torch.from_numpy(padded)


def frames_of(speech: Tensor) -> int:
    """Number of frames T of speech ``[T * 640]``."""
    return len(speech) // SAMPLES_PER_FRAME
