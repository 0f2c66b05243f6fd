"""The rows of an evaluation: the ways to obtain frames for the speech of a clip.

Speech does not determine the take: head pose, hair, light and camera. So each row states what it knows of the take. The
rows of real footage and of stills show what a figure is worth that a generator reaches.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2v_ray.clip import Clip
from s2v_ray.evaluation.takes import Takes, stretched
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.inference.state import SpeechCodes
from s2v_ray.metrics import image
from s2v_ray.models.judges import FaceJudge

REAL = "real clips"
OTHER_TAKE = "another real take"
STILL = "still of the same take"
OTHER_STILL = "still of another take"
MEAN_FRAME = "mean frame"
REFERENCE = "reference baseline"
REFERENCE_OTHER = "reference baseline, still of another take"
IMAGE_IDENTITY = "image identity"
SPEECH = "speech only"
SPEECH_TAKE = "speech only, take given"
BEST_SPEECH = "speech only, best of K"
BEST_REAL = "real takes, best of K"

ROWS = {
    REAL: "the clip itself",
    OTHER_TAKE: "frames of another clip of the speaker, played forth and back if it is shorter",
    STILL: "the clip's first frame, repeated",
    OTHER_STILL: "the first frame of another take, repeated",
    MEAN_FRAME: "the mean over other takes of the speaker, repeated",
    REFERENCE: "the reference baseline with the clip's first frame as still",
    REFERENCE_OTHER: "the reference baseline with the first frame of another take as still",
    IMAGE_IDENTITY: "the bundle with the identity teacher's code of the first frame; the take is sampled",
    SPEECH: "the bundle; the take is sampled",
    SPEECH_TAKE: "the bundle with the take of the clip's first frame, as the reference baseline gets it",
    BEST_SPEECH: "of K samples of the row speech only, the one with the highest PSNR",
    BEST_REAL: "of K other takes of the speaker, the one with the highest PSNR",
}
"""Row -> what it shows, in the order of tables."""

SHOWN_ROWS = {
    REAL: "real clip",
    OTHER_TAKE: "another real take",
    REFERENCE: "reference baseline",
    REFERENCE_OTHER: "reference, other still",
    SPEECH_TAKE: "speech, take given",
    SPEECH: "speech only",
}
"""Rows of which the report shows pictures -> short label."""
REFERENCE_ROWS = frozenset({REFERENCE, REFERENCE_OTHER})
"""Rows that need the reference baseline."""


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


@dataclass(frozen=True, eq=False)
class ClipRows:
    """The rows of one clip.

    Attributes:
        frames: row -> uint8 ``[T, H, W, 3]``, in the order of ``ROWS``. Rows that do not apply to the clip are missing.
        samples: frames of ``best_of`` samples of the row ``SPEECH``, which is the first of them.
        takes: at most ``best_of`` other takes of the speaker, each ``[T, H, W, 3]``.
        seconds: time that generating the row ``SPEECH`` took.
    """

    frames: dict[str, np.ndarray]
    samples: list[np.ndarray]
    takes: list[np.ndarray]
    seconds: float


@dataclass(frozen=True)
class RowGenerator:
    """Generates the rows of clips.

    Attributes:
        predictor: the bundle that is evaluated.
        reference: the reference baseline, or None.
        teacher: the identity teacher, which gives the image identity of a still.
        seed: seed of the sampled takes; each clip and each sample has a seed of its own that depends on it.
        takes: other takes of the speakers, or None if the corpus has none.
        best_of: K, number of samples and of real takes among which the best is chosen.
    """

    predictor: FrameGenerator
    reference: FrameGenerator | None
    teacher: FaceJudge
    seed: int
    takes: Takes | None = None
    best_of: int = 1

    def rows(self, clip: Clip) -> ClipRows:
        """Generates all rows of a clip.

        Raises:
            ValueError: the frames have another number or size than the clip.
        """
        still, count = clip.frames[0], len(clip.frames)
        began = time.perf_counter()
        samples = [self._sample(clip, 0)]
        seconds = time.perf_counter() - began
        samples += [self._sample(clip, k) for k in range(1, self.best_of)]
        others = self.takes.of(clip, self.best_of) if self.takes else []
        takes = [stretched(other.frames, count) for other in others]
        identity = self.teacher(still[None])[0]
        requests = {
            IMAGE_IDENTITY: GenerationRequest(clip.speech, identity, seed=sample_seed(self.seed, clip, 0)),
            SPEECH_TAKE: GenerationRequest(clip.speech, take=still, seed=sample_seed(self.seed, clip, 0)),
        }
        frames = {row: generate_like(self.predictor, clip, request) for row, request in requests.items()}
        frames |= {REAL: clip.frames, STILL: _repeated(still, count), SPEECH: samples[0]}
        frames[BEST_SPEECH] = _nearest(samples, clip.frames)
        if self.reference:
            frames[REFERENCE] = self._baseline(self.reference, clip, still)
        if takes:
            other_still = others[0].frames[0]
            frames |= {OTHER_TAKE: takes[0], OTHER_STILL: _repeated(other_still, count)}
            frames[BEST_REAL] = _nearest(takes, clip.frames)
            if self.reference:
                frames[REFERENCE_OTHER] = self._baseline(self.reference, clip, other_still)
        mean_frame = self.takes.mean_frame(clip) if self.takes else None
        if mean_frame is not None:
            frames[MEAN_FRAME] = _repeated(mean_frame, count)
        return ClipRows({row: frames[row] for row in ROWS if row in frames}, samples, takes, seconds)

    def _sample(self, clip: Clip, k: int) -> np.ndarray:
        return generate_like(self.predictor, clip, GenerationRequest(clip.speech, seed=sample_seed(self.seed, clip, k)))

    def _baseline(self, reference: FrameGenerator, clip: Clip, still: np.ndarray) -> np.ndarray:
        seed = sample_seed(self.seed, clip, 0)
        return generate_like(reference, clip, GenerationRequest(clip.speech, still=still, seed=seed))


def sample_seed(seed: int, clip: Clip, k: int) -> int:
    """Seed of sample ``k`` of a clip: with one seed for all, every clip of a speaker would show the same take."""
    return zlib.crc32(f"{seed} {clip.id} {k}".encode())


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


def missing_rows(counts: dict[str, int], clips: int, *, has_reference: bool) -> dict[str, str]:
    """The reason for each row that some or all of the clips do not have.

    Args:
        counts: row -> number of clips that have it.
        clips: number of clips.
        has_reference: whether a reference bundle was given.
    """
    reasons: dict[str, str] = {}
    for row in ROWS:
        absent = clips - counts.get(row, 0)
        if not absent:
            continue
        if row in REFERENCE_ROWS and not has_reference:
            reasons[row] = "no reference bundle was given"
        else:
            reasons[row] = f"{absent} of {clips} clips have no other take of their speaker in the corpus"
    return reasons


def _repeated(frame: np.ndarray, count: int) -> np.ndarray:
    return np.repeat(frame[None], count, axis=0)


def _nearest(candidates: list[np.ndarray], real: np.ndarray) -> np.ndarray:
    """The candidate with the highest PSNR; the first of equal ones."""
    return max(candidates, key=lambda frames: image.psnr(frames, real))
