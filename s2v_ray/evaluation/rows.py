"""The rows of an evaluation: the ways to obtain frames for the speech of a clip."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2v_ray.clip import Clip
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.inference.state import SpeechCodes
from s2v_ray.models.judges import FaceJudge

REAL = "real clips"
STILL = "still frame"
REFERENCE = "reference baseline"
IMAGE_IDENTITY = "image identity"
SPEECH = "speech only"
ROWS = (REAL, STILL, REFERENCE, IMAGE_IDENTITY, SPEECH)
"""Every table contains these rows, in this order."""


class SpeechEncoder(Protocol):
    """The part of ``inference.predictor.Predictor`` that the figures of the student need."""

    @property
    def emotions(self) -> tuple[str, ...]:
        """Names of the emotion logits."""
        ...

    def encode_speech(self, speech: np.ndarray, /) -> SpeechCodes:
        """Codes of speech, float32 ``[N]``."""
        ...


class FrameGenerator(SpeechEncoder, Protocol):
    """The part of ``inference.predictor.Predictor`` that an evaluation needs."""

    def generate(self, request: GenerationRequest, /) -> Iterator[np.ndarray]:
        """Chunks of frames, uint8 ``[t, H, W, 3]``."""
        ...


@dataclass(frozen=True)
class ClipRows:
    """The rows of one clip.

    Attributes:
        frames: row -> uint8 ``[T, H, W, 3]``. Without a reference baseline, that row is missing.
        seconds: time that generating the row ``SPEECH`` took.
    """

    frames: dict[str, np.ndarray]
    seconds: float


@dataclass(frozen=True)
class RowGenerator:
    """Generates the rows of clips.

    Attributes:
        predictor: the bundle that is evaluated.
        reference: the reference baseline, or None.
        teacher: the identity teacher, which gives the image identity of a still.
        seed: seed of the noise sequences.
    """

    predictor: FrameGenerator
    reference: FrameGenerator | None
    teacher: FaceJudge
    seed: int

    def rows(self, clip: Clip) -> ClipRows:
        """Generates all rows of a clip. Stills are the clip's first frame.

        Raises:
            ValueError: the frames have another number or size than the clip.
        """
        still = clip.frames[0]
        began = time.perf_counter()
        frames = {SPEECH: generate_like(self.predictor, clip, GenerationRequest(clip.speech, seed=self.seed))}
        seconds = time.perf_counter() - began
        identity = self.teacher(still[None])[0]
        request = GenerationRequest(clip.speech, identity, seed=self.seed)
        frames[IMAGE_IDENTITY] = generate_like(self.predictor, clip, request)
        if self.reference:
            request = GenerationRequest(clip.speech, still=still, seed=self.seed)
            frames[REFERENCE] = generate_like(self.reference, clip, request)
        frames[STILL] = np.repeat(still[None], len(clip.frames), axis=0)
        frames[REAL] = clip.frames
        return ClipRows(frames, seconds)


def generate_like(generator: FrameGenerator, clip: Clip, request: GenerationRequest) -> np.ndarray:
    """Generates the frames of a request for the speech of ``clip``: uint8, of the shape of ``clip.frames``.

    Raises:
        ValueError: the frames have another number or size than the clip.
    """
    frames = np.concatenate(list(generator.generate(request)))
    if frames.shape != clip.frames.shape:
        raise ValueError(
            f"clip {clip.id} has frames {clip.frames.shape}, those generated for it are {frames.shape}: "
            "use a bundle that was trained on frames of this size"
        )
    return frames
