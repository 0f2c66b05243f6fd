"""Identity and emotion of a live session: predicted segment by segment, and changed smoothly."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray.inference.state import SpeechCodes
from s2v_ray.media.timing import SAMPLES_PER_FRAME, seconds_to_frames
from s2v_ray.models.student import Student, StudentOutput

SEGMENT_FRAMES = tuple(seconds_to_frames(s) for s in (1.0, 2.0, 4.0))
"""Lengths of the segments from which codes are predicted; the last is repeated. Clips of distillation are as long."""
MIN_VOICED_FRAMES = 10
"""Segments with fewer frames that are not silent do not change the codes."""
SILENCE_RMS = 10 ** (-50 / 20)
"""Root mean square below which a frame of speech is silent: -50 dB relative to full scale."""
EMOTION_SECONDS = 8.0
"""Time constant of the mean over the emotion codes of the segments: emotion changes while a person speaks."""
SMOOTHING_SECONDS = 0.6
"""Time constant with which the codes of the frames approach the predicted ones."""
SMOOTHING_SHARE = 1.0 - math.exp(-1.0 / seconds_to_frames(SMOOTHING_SECONDS))
"""Share of the difference to the predicted codes by which those of a frame change."""


@dataclass(frozen=True)
class CodeUpdate:
    """Predicted codes, which apply from a frame on.

    Attributes:
        frame: index of the first frame.
        voiced: number of frames so far, that were not silent, from which the codes were predicted.
        codes: mean over the segments so far.
    """

    frame: int
    voiced: int
    codes: SpeechCodes


class CodeTracker:
    """The codes of every frame of a live session.

    The first frames have initial codes. Each segment of speech is encoded once, without its silent frames. The identity
    is the mean over all segments, the emotion a mean in which earlier segments decay; both weight a segment by its
    voiced frames. The codes of frames approach these means exponentially. They depend on the speech alone and not on
    the chunks in which it arrives.

    Args:
        student: in evaluation mode.
        initial: identity ``[D]`` and emotion ``[E]`` of the first frames.
        identity: ``[D]``, replaces the predicted identity, or None.
        emotion: ``[E]``, replaces the predicted emotion, or None.

    Attributes:
        updates: predicted codes in the order of their frames, for whoever reads and clears them.
    """

    def __init__(
        self, student: Student, initial: tuple[Tensor, Tensor], identity: Tensor | None, emotion: Tensor | None
    ) -> None:
        self._student, self._identity, self._emotion = student, identity, emotion
        self._predicts = identity is None or emotion is None
        self._segment = SEGMENT_FRAMES[0]
        self._received = torch.zeros(0)
        self._next = 0  # frame at which the current segment begins
        self._segments = self._voiced = 0
        self._weighted_identity: Tensor | None = None
        self._weighted_emotion: tuple[Tensor, Tensor, float] | None = None
        self._pending: deque[CodeUpdate] = deque()
        self._target: SpeechCodes | None = None
        self._now = initial[0] if identity is None else identity, initial[1] if emotion is None else emotion
        self.updates: deque[CodeUpdate] = deque(maxlen=8)

    def push(self, speech: Tensor) -> None:
        """Appends speech, float32 ``[N]`` on the CPU."""
        if self._predicts:
            self._received = torch.cat([self._received, speech])

    def tensors(self) -> list[Tensor]:
        """All tensors of the state whose size could depend on the speech."""
        return [self._received]

    @torch.no_grad()
    def encode(self) -> None:
        """Predicts codes from every segment that is complete."""
        while self._predicts and len(self._received) >= self._segment * SAMPLES_PER_FRAME:
            self._encode_segment(self._segment)

    def _encode_segment(self, frames: int) -> None:
        speech, self._received = (
            self._received[: frames * SAMPLES_PER_FRAME],
            self._received[frames * SAMPLES_PER_FRAME :].clone(),
        )
        mask = speech.view(frames, -1).square().mean(1).sqrt() > SILENCE_RMS
        voiced = int(mask.sum())
        self._next += frames
        self._segments += 1
        self._segment = SEGMENT_FRAMES[min(self._segments, len(SEGMENT_FRAMES) - 1)]
        if voiced < MIN_VOICED_FRAMES:
            return
        device = self._student.emotion_codes.device
        output = self._student(speech[None].to(device), mask[None].to(device), content=False)
        self._pending.append(CodeUpdate(self._next, self._voiced + voiced, self._add(output, voiced, frames)))
        self._voiced += voiced

    def _add(self, output: StudentOutput, voiced: int, frames: int) -> SpeechCodes:
        """Adds the codes of a segment to the means, which it returns."""
        identity = voiced * output.identity[0]
        self._weighted_identity = identity if self._weighted_identity is None else self._weighted_identity + identity
        emotion, logits, weight = voiced * output.emotion[0], voiced * output.emotion_logits[0], float(voiced)
        if self._weighted_emotion is not None:
            decay = math.exp(-frames / seconds_to_frames(EMOTION_SECONDS))
            before = self._weighted_emotion
            emotion, logits, weight = (
                emotion + decay * before[0],
                logits + decay * before[1],
                weight + decay * before[2],
            )
        self._weighted_emotion = emotion, logits, weight
        return SpeechCodes(F.normalize(self._weighted_identity, dim=0), emotion / weight, logits / weight)

    def draw(self, first: int, frames: int) -> tuple[Tensor, Tensor]:
        """Returns identity ``[frames, D]`` and emotion ``[frames, E]`` of the next frames, starting at ``first``."""
        codes = []
        for frame in range(first, first + frames):
            while self._pending and self._pending[0].frame <= frame:
                update = self._pending.popleft()
                self._target = update.codes
                self.updates.append(update)
            codes.append(self._step())
        if not codes:
            known = self._student.emotion_codes
            return known.new_zeros(0, self._student.identity_dim), known.new_zeros(0, known.shape[1])
        identity, emotion = (torch.stack(column) for column in zip(*codes, strict=True))
        return F.normalize(identity, dim=1), emotion

    def _step(self) -> tuple[Tensor, Tensor]:
        """Moves the codes of the current frame towards the predicted ones."""
        identity, emotion = self._now
        if self._target is not None and self._identity is None:
            identity = identity + SMOOTHING_SHARE * (self._target.identity - identity)
        if self._target is not None and self._emotion is None:
            emotion = emotion + SMOOTHING_SHARE * (self._target.emotion - emotion)
        self._now = identity, emotion
        return self._now
