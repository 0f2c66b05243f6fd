"""Live sessions: frames while a person speaks, with state between chunks of speech and flat memory.

A session gets the frames that ``Predictor.generate`` would generate for the whole speech with the same codes, and each
window of speech is computed once. Several sessions share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from s2v_ray.clip import to_pixels
from s2v_ray.inference.codes import SMOOTHING_SHARE, CodeTracker, CodeUpdate
from s2v_ray.inference.predictor import VIDEO_CHUNK_FRAMES, Predictor
from s2v_ray.media.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from s2v_ray.models.generator import ClipCodes
from s2v_ray.models.streaming import ContentEncoder

SILENCE_BLOCK = SAMPLE_RATE
"""Largest number of samples of silence that replace lost audio at a time."""


@dataclass(frozen=True, eq=False)
class LiveRequest:
    """The input of a live session beside its speech.

    Attributes:
        identity: as in ``GenerationRequest``.
        emotion: as in ``GenerationRequest``.
        take: as in ``GenerationRequest``.
        seed: as in ``GenerationRequest``.
        max_backlog: largest number of frames that wait to be generated. Older ones are skipped and counted. None
            generates all.
    """

    identity: Tensor | None = None
    emotion: str | Tensor | None = None
    take: np.ndarray | None = None
    seed: int = 0
    max_backlog: int | None = None


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame.

    Attributes:
        index: number of frames before it, skipped ones included.
        pixels: uint8 ``[size, size, 3]``.
    """

    index: int
    pixels: np.ndarray

    @property
    def seconds(self) -> float:
        """Time of the audio that the frame belongs to, counted from the first sample of the session."""
        return self.index / FPS


@dataclass(frozen=True, eq=False)
class LiveInputs:
    """Inputs of the generator for consecutive frames of one session.

    Attributes:
        first: index of the first frame.
        identity: ``[n, D]``.
        emotion: ``[n, E]``.
        take: ``[n, Z]``.
        content: ``[n, 1, C]``.
        motion: ``[n, 1, M]``.
        noise: ``[n, 1, 1, S, S]``.
    """

    first: int
    identity: Tensor
    emotion: Tensor
    take: Tensor
    content: Tensor
    motion: Tensor
    noise: Tensor


class LiveSession:
    """The state of one session.

    Args:
        predictor: the bundle.
        request: codes and seed.

    Attributes:
        received: number of samples of speech, lost ones included.
        lost: number of samples that were declared lost, in place of which silence was used.
        frames: number of frames whose content is known, generated and skipped ones.
        skipped: number of frames that were not generated.

    Raises:
        ValueError: the request cannot be used, or the bundle is a reference baseline.
    """

    def __init__(self, predictor: Predictor, request: LiveRequest) -> None:
        if predictor.reference:
            raise ValueError("a reference bundle has no live sessions: use a bundle that needs no still")
        self.predictor, self.max_backlog = predictor, request.max_backlog
        identity, emotion = predictor.given_codes(request.identity, request.emotion)
        self._take = predictor.take_of(request.take)
        white, self._motion, self._noise = predictor.seeded(request.seed)
        self._take_now: Tensor | None = None
        self._white = white.to(predictor.device)
        self.encoder = ContentEncoder(predictor.model.student)
        self.content = self.encoder.open()
        initial = predictor.model.take_prior.mean_codes()
        self._codes = CodeTracker(predictor.model.student, initial, identity, emotion)
        self.received = self.lost = self.frames = self.skipped = 0
        self.finished = False

    @property
    def pending(self) -> int:
        """Number of frames of speech that ``advance`` can process now."""
        return self.encoder.available(self.content)

    @property
    def code_updates(self) -> Iterator[CodeUpdate]:
        """Predicted codes that came into effect since the last call."""
        while self._codes.updates:
            yield self._codes.updates.popleft()

    def push(self, speech: np.ndarray, *, lost: bool = False) -> None:
        """Appends speech: float32 ``[N]``, 16 kHz mono. Samples are clipped to [-1, 1].

        Args:
            speech: the samples.
            lost: whether they are silence in place of lost audio, which is counted.

        Raises:
            ValueError: the speech is not mono or not finite, or the session is finished.
        """
        if self.finished:
            raise ValueError("the session is finished: open another one")
        if speech.ndim != 1 or not np.isfinite(speech).all():
            raise ValueError("speech must be finite and mono, of shape [N]")
        samples = torch.from_numpy(speech.astype(np.float32).clip(-1.0, 1.0))
        self.encoder.push(self.content, samples)
        self._codes.push(samples)
        self.received += len(samples)
        self.lost += len(samples) if lost else 0

    def lose(self, samples: int) -> None:
        """Replaces ``samples`` lost samples by silence."""
        for start in range(0, samples, SILENCE_BLOCK):
            self.push(np.zeros(min(SILENCE_BLOCK, samples - start), np.float32), lost=True)

    def finish(self) -> None:
        """Ends the speech, padded with silence to a whole frame; the last frames become available."""
        if not self.finished:
            self.push(np.zeros(-self.received % SAMPLES_PER_FRAME, np.float32))
            self.encoder.finish(self.content)
            self.finished = True

    def drain(self) -> Iterator[LiveFrame]:
        """Yields all frames that can be generated now."""
        while self.pending:
            yield from advance([self])[0]

    def state_bytes(self) -> int:
        """Size of all tensors that a session keeps between chunks."""
        tensors = [*self.content.tensors(), *self._codes.tensors(), self._motion.ready, self._white]
        return sum(t.untyped_storage().nbytes() for t in tensors)

    def next_inputs(self, content: Tensor) -> LiveInputs:
        """Inputs of the next frames, whose content is ``[t, C]``, without those of frames that are skipped."""
        first, t = self.frames, len(content)
        self._codes.encode()
        identity, emotion = self._codes.draw(first, t)
        motion = self._motion.draw(t)[0].to(content.device)
        noise = self._noise.draw(t)[0].to(content.device)
        take = self._takes(identity, emotion)
        late = 0 if self.max_backlog is None else min(t, max(0, t + self.pending - self.max_backlog))
        self.frames, self.skipped = first + t, self.skipped + late
        frames = (x[late:, None] for x in (content, motion, noise))
        return LiveInputs(first + late, identity[late:], emotion[late:], take[late:], *frames)

    def _takes(self, identity: Tensor, emotion: Tensor) -> Tensor:
        """Takes ``[n, Z]`` of the next frames: that of the picture, or those of the prior for the seed, smoothed.

        Other codes can choose the take of another clip, which replaces the one so far within a second.
        """
        n = len(identity)
        if self._take is not None:
            return self._take.expand(n, -1)
        wanted = self.predictor.model.take_prior.sample(identity, emotion, self._white.expand(n, -1))
        takes = []
        for take in wanted:
            before = take if self._take_now is None else self._take_now
            self._take_now = before + SMOOTHING_SHARE * (take - before)
            takes.append(self._take_now)
        return torch.stack(takes) if takes else wanted


@torch.inference_mode()
def advance(sessions: Sequence[LiveSession], frames: int = VIDEO_CHUNK_FRAMES) -> list[list[LiveFrame]]:
    """Generates the next frames of several sessions of one predictor in one batch.

    Args:
        sessions: sessions with pending frames of speech.
        frames: largest number of frames of each.

    Returns:
        the frames of each session: fewer than ``frames`` at the start of a session, where the look-ahead is awaited,
        and where frames are skipped.
    """
    steps = min(frames, *(session.pending for session in sessions))
    contents = sessions[0].encoder.encode([session.content for session in sessions], steps)
    parts = [session.next_inputs(content) for session, content in zip(sessions, contents, strict=True)]
    if not any(len(part.content) for part in parts):
        return [[] for _ in sessions]
    codes = ClipCodes(
        torch.cat([part.identity for part in parts]),
        torch.cat([part.emotion for part in parts]),
        torch.cat([part.take for part in parts]),
    )
    content, motion, noise = (torch.cat(x) for x in zip(*((p.content, p.motion, p.noise) for p in parts), strict=True))
    pixels = to_pixels(sessions[0].predictor.model.generator(codes, content, motion, noise)).cpu().numpy()[:, 0]
    made, at = [], 0
    for part in parts:
        n = len(part.content)
        made.append([LiveFrame(part.first + k, pixels[at + k]) for k in range(n)])
        at += n
    return made
