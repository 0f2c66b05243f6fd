"""The state of one generation between two calls of the predictor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray.inference.request import frames_of
from s2v_ray.models.student import StudentOutput
from s2v_ray.models.take import MotionSequence, NoiseSequence


@dataclass(frozen=True)
class SpeechCodes:
    """Codes that the student predicts from speech.

    Attributes:
        identity: ``[D]``, unit length.
        emotion: ``[E]``.
        emotion_logits: ``[K]``.
    """

    identity: Tensor
    emotion: Tensor
    emotion_logits: Tensor


class CodeAverage:
    """Mean of the codes of several chunks, weighted by their number of frames."""

    def __init__(self) -> None:
        self.frames = 0
        self._sums: list[Tensor] = []

    def add(self, output: StudentOutput, frames: int) -> None:
        """Adds the codes of a chunk of ``frames`` frames: the output of the student for a batch of one."""
        terms = [frames * code[0] for code in (output.identity, output.emotion, output.emotion_logits)]
        self._sums = [a + b for a, b in zip(self._sums, terms, strict=True)] if self._sums else terms
        self.frames += frames

    def mean(self) -> SpeechCodes:
        """The mean codes; the identity is scaled back to unit length."""
        identity, emotion, logits = (total / self.frames for total in self._sums)
        return SpeechCodes(F.normalize(identity, dim=0), emotion, logits)


@dataclass(eq=False)
class GenerationState:
    """A request that is being generated. ``Predictor.begin`` creates it, and only ``Predictor`` advances it.

    Attributes:
        speech: float32 ``[T * 640]``.
        identity_code: ``[D]``, unit length; None until it is predicted.
        emotion_code: ``[E]``; None until it is predicted.
        still: ``[1, 3, size, size]`` in [-1, 1] for reference bundles, else None.
        take: ``[Z]``; None until it is drawn from the prior, which needs both codes. Reference bundles have none.
        white: ``[1 + Z]``, standard normal, from which the take is drawn.
        motion: motion of the frames that are not generated yet.
        noise: their noise.
        contents: iterator over content codes ``[1, t, C]`` of consecutive chunks.
        pending_spans: spans of frames ``(start, end)`` from which the codes are still to be predicted.
        remaining_frames: number of frames that are not generated yet.
    """

    speech: Tensor
    identity_code: Tensor | None
    emotion_code: Tensor | None
    still: Tensor | None
    take: Tensor | None
    white: Tensor
    motion: MotionSequence
    noise: NoiseSequence
    contents: Iterator[Tensor]
    pending_spans: list[tuple[int, int]]
    remaining_frames: int = field(init=False)
    _average: CodeAverage = field(default_factory=CodeAverage, init=False)
    _content: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.remaining_frames = frames_of(self.speech)
        self._content = torch.zeros(1, 0, 0)

    @property
    def ready(self) -> bool:
        """Whether both codes are known, so that frames can be generated."""
        return self.identity_code is not None and self.emotion_code is not None

    def add_codes(self, output: StudentOutput, frames: int) -> None:
        """Adds the student's output for the first pending span, of ``frames`` frames; the last one sets the codes."""
        self._average.add(output, frames)
        self.pending_spans.pop(0)
        if not self.pending_spans:
            codes = self._average.mean()
            if self.identity_code is None:
                self.identity_code = codes.identity
            if self.emotion_code is None:
                self.emotion_code = codes.emotion

    def next_inputs(self, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        """Content ``[1, t, C]``, motion ``[1, t, M]`` and noise of the next t frames, ``1 <= t <= frames``."""
        if not self._content.shape[1]:
            self._content = next(self.contents)
        part, self._content = self._content[:, :frames], self._content[:, frames:]
        self.remaining_frames -= part.shape[1]
        t = part.shape[1]
        return part, self.motion.draw(t), self.noise.draw(t)


def split_evenly(frames: int, longest: int) -> Iterator[tuple[int, int]]:
    """Splits ``frames`` into the fewest spans ``(start, end)`` of at most ``longest``, of nearly equal length."""
    count = -(-frames // longest)
    edges = [i * frames // count for i in range(count + 1)]
    yield from zip(edges[:-1], edges[1:], strict=True)
