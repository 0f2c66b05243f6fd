"""A clip and a batch of clips: shapes, ranges and units, checked where they enter the system."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from s2v_ray.media.timing import SAMPLES_PER_FRAME


@dataclass(frozen=True)
class Clip:
    """One person speaking, face-aligned.

    Attributes:
        id: derived from the content, so that the same clip has the same id everywhere.
        frames: uint8 ``[T, H, W, 3]``, RGB, 25 fps, square, aligned to ``media.face.TEMPLATE``.
        speech: float32 ``[T * 640]``, 16 kHz mono in [-1, 1].
        speaker: label of the speaker. Used for splits, sampling and evaluation; never an input of the student.
        emotion: label of the emotion, or "" if the source has none.
        sentence: text of the sentence, a key of it, or "".
        source: name of the file in the source that the clip was made from.
        landmarks: float32 ``[T, 5, 2]``: left eye, right eye, nose, left and right mouth corner as they appear in the
            picture (left = smaller x), x and y in pixels of the crop.
        mouth_opening: float32 ``[T]``, true opening in [0, 1] if the source provides it (puppets), else None.
    """

    id: str
    frames: np.ndarray
    speech: np.ndarray
    speaker: str
    emotion: str
    sentence: str
    source: str
    landmarks: np.ndarray
    mouth_opening: np.ndarray | None = None

    def __post_init__(self) -> None:
        t = len(self.frames)
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[3] != 3 or t == 0:
            raise ValueError(
                f"clip {self.id}: frames must be uint8 [T, H, W, 3], not {self.frames.dtype} {self.frames.shape}"
            )
        if self.speech.dtype != np.float32 or self.speech.shape != (t * SAMPLES_PER_FRAME,):
            raise ValueError(
                f"clip {self.id}: speech must be float32 [{t * SAMPLES_PER_FRAME}], "
                f"not {self.speech.dtype} {self.speech.shape}"
            )
        if self.landmarks.shape != (t, 5, 2):
            raise ValueError(f"clip {self.id}: landmarks must be [{t}, 5, 2], not {self.landmarks.shape}")
        if self.mouth_opening is not None and self.mouth_opening.shape != (t,):
            raise ValueError(f"clip {self.id}: mouth_opening must be [{t}], not {self.mouth_opening.shape}")
        if not np.isfinite(self.speech).all() or np.abs(self.speech).max(initial=0.0) > 1.0:
            raise ValueError(f"clip {self.id}: speech must be finite and in [-1, 1]")


@dataclass(kw_only=True)
class SpeechBatch:
    """Speech of clips, the input of a step that uses no pictures.

    B clips, L frames of speech.

    Attributes:
        speech: float32 ``[B, L * 640]``.
        speech_mask: bool ``[B, L]``: False where the clip is shorter than L and silence was added.
        identity: float32 ``[B, D]``, unit length: the identity teacher's code, or None.
        emotion: float32 ``[B, L, K]``: the emotion teacher's logits for each frame, or None.
        ids: clip ids.
    """

    speech: Tensor
    speech_mask: Tensor
    identity: Tensor | None = None
    emotion: Tensor | None = None
    ids: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> Self:
        """Copy the batch to ``device``. Pixels stay uint8."""
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)

    def pinned(self) -> Self:
        """Return the batch in page-locked memory, from which copies to a GPU run concurrently with its work."""
        pinned: dict[str, Any] = {k: v.pin_memory() for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **pinned)

    def split(self, parts: int) -> list[Self]:
        """Split the batch into ``parts`` batches of ``part_sizes``.

        Raises:
            ValueError: there are fewer clips than parts.
        """
        clips = len(self.speech)
        if clips < parts:
            raise ValueError(f"a batch of {clips} clips does not divide into {parts} parts")
        sizes = part_sizes(clips, parts)
        ends = [sum(sizes[: i + 1]) for i in range(parts)]
        cut: dict[str, Any] = {k: v.split(sizes) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return [
            replace(self, ids=self.ids[end - size : end], **{k: v[i] for k, v in cut.items()})
            for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        ]


@dataclass(kw_only=True)
class ClipBatch(SpeechBatch):
    """Parts of clips, the input of a step that uses pictures.

    T target frames, P reference frames, L >= T frames of speech, H = W = size. The speech is longer than the target
    frames, because identifying a voice takes more than half a second of it.

    Attributes:
        frames: uint8 ``[B, T, H, W, 3]``: the target frames; the speech is that around them.
        index: int64 ``[B, T]``: positions of the target frames within the L frames of speech, ascending.
        consecutive: bool ``[B]``: whether the target frames follow each other; otherwise they are spread.
        references: uint8 ``[B, P, H, W, 3]``: other frames of the same clip, for the take encoder; the first one is the
            still of the reference baseline.
    """

    frames: Tensor
    index: Tensor
    consecutive: Tensor
    references: Tensor


def part_sizes(total: int, parts: int) -> list[int]:
    """Return the sizes of ``parts`` consecutive parts of ``total`` that differ by at most 1."""
    return [total * (part + 1) // parts - total * part // parts for part in range(parts)]


def to_unit(frames: Tensor) -> Tensor:
    """Convert uint8 ``[..., H, W, 3]`` to float32 ``[..., 3, H, W]`` in [-1, 1], the input of every network."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def to_pixels(frames: Tensor) -> Tensor:
    """Convert float ``[..., 3, H, W]`` in [-1, 1] to uint8 ``[..., H, W, 3]``; values outside are clamped."""
    return ((frames.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8).movedim(-3, -1)
