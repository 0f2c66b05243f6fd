"""The content encoder of the student on streams of speech: state between chunks, and no window computed twice.

The result equals that of ``Student.content_of`` for the whole speech, whatever the sizes of the chunks are. Streams of
several clients are encoded in one batch. Shapes: B streams, W channels of the encoder, C content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray.media.audio import MEL_PAD, N_FFT, padded_log_mel
from s2v_ray.media.timing import MEL_BINS, MEL_HOP, MEL_PER_FRAME, SAMPLES_PER_FRAME
from s2v_ray.models.student import Student


@dataclass(eq=False)
class ContentState:
    """The state of one stream. ``ContentEncoder.open`` creates it, and only ``ContentEncoder`` advances it.

    Attributes:
        samples: float32 ``[N]``, on the CPU: speech whose mel frames are not computed yet.
        mel: ``[80, 2]``, the last mel frames, which the next 10 ms convolution also needs; None before the first.
        activations: inputs of each block's convolution that the next step also needs, ``[W, past + future]``.
        delayed: inputs of each block whose outputs need later frames, ``[W, future]``.
        steps: number of frames of speech that were encoded.
        frames: number of frames of the whole speech; None until the stream is finished.
    """

    samples: Tensor
    activations: list[Tensor]
    delayed: list[Tensor]
    mel: Tensor | None = None
    steps: int = 0
    frames: int | None = None
    received: int = field(default=0, init=False)

    def tensors(self) -> list[Tensor]:
        """All tensors of the state."""
        return [self.samples, *self.activations, *self.delayed, *([] if self.mel is None else [self.mel])]


class ContentEncoder:
    """Encodes streams with the content encoder of a student.

    A frame's content is known ``delay`` frames and ``MEL_PAD`` samples after the frame has ended.

    Args:
        student: in evaluation mode.

    Attributes:
        delay: number of frames between the last encoded frame of speech and the last known content.
    """

    def __init__(self, student: Student) -> None:
        self._encoder, self._out = student.content, student.content_out
        self.delay = sum(self._encoder.futures)

    def open(self) -> ContentState:
        """Returns the state of a new stream."""
        fine = self._encoder.fine.weight
        width, device = len(fine), fine.device
        pasts, futures = self._encoder.pasts, self._encoder.futures
        return ContentState(
            torch.zeros(MEL_PAD),
            [torch.zeros(width, p + f, device=device) for p, f in zip(pasts, futures, strict=True)],
            [torch.zeros(width, f, device=device) for f in futures],
        )

    def push(self, state: ContentState, speech: Tensor) -> None:
        """Appends speech, float32 ``[N]`` on the CPU."""
        state.samples = torch.cat([state.samples, speech])
        state.received += len(speech)

    def finish(self, state: ContentState) -> None:
        """Ends the speech of a stream, so that the content of its last frames becomes available.

        Raises:
            ValueError: the speech is not a whole number of frames.
        """
        if state.received % SAMPLES_PER_FRAME:
            raise ValueError(f"{state.received} samples of speech are not a whole number of frames: pad with silence")
        state.frames = state.received // SAMPLES_PER_FRAME
        padding = MEL_PAD + (self.delay + 1) * SAMPLES_PER_FRAME
        state.samples = torch.cat([state.samples, torch.zeros(padding)])

    def available(self, state: ContentState) -> int:
        """Number of frames of speech that can be encoded now."""
        first = MEL_HOP if state.mel is None else 0  # mel frame 0, which the first step computes in addition
        steps = max(0, (len(state.samples) - first - N_FFT + MEL_HOP) // SAMPLES_PER_FRAME)
        if state.frames is None:
            return steps
        last = state.frames + self.delay if state.frames else 0
        return min(steps, last - state.steps)

    def encode(self, states: Sequence[ContentState], steps: int) -> list[Tensor]:
        """Encodes the next frames of several streams in one batch.

        Args:
            states: streams with at least ``steps`` available frames.
            steps: number of frames of speech of each stream.

        Returns:
            content ``[t, C]`` of each stream's next frames; t is smaller than ``steps`` within the first ``delay``
            frames of a stream.
        """
        mel = torch.stack([self._next_mel(state, steps) for state in states])
        fine = self._encoder.fine
        x: Tensor = self._encoder.to_frames(F.gelu(F.conv1d(mel, fine.weight, fine.bias)))
        at = torch.tensor([state.steps for state in states], device=x.device)[:, None]
        index = at + torch.arange(steps, device=x.device)  # of the frames in ``x``
        end = torch.tensor([2**62 if s.frames is None else s.frames for s in states], device=x.device)[:, None]
        for i in range(len(self._encoder.blocks)):
            x = self._block(i, x, (index >= 0) & (index < end), states)
            index = index - self._encoder.futures[i]
        content: Tensor = self._out(x.transpose(1, 2)).float()
        found = [made[max(0, self.delay - state.steps) :] for made, state in zip(content, states, strict=True)]
        for state in states:
            state.steps += steps
        return found

    def _next_mel(self, state: ContentState, steps: int) -> Tensor:
        """The next ``4 * steps`` mel frames and the two before them, ``[80, 4 * steps + 2]``."""
        device = self._encoder.fine.weight.device
        if state.mel is None:
            first = padded_log_mel(state.samples[None, :N_FFT].to(device))[0]
            state.mel = torch.cat([torch.zeros(MEL_BINS, 1, device=device), first], dim=1)
            state.samples = state.samples[MEL_HOP:]
        count = MEL_PER_FRAME * steps
        mel = padded_log_mel(state.samples[None, : N_FFT + (count - 1) * MEL_HOP].to(device))[0]
        state.samples = state.samples[count * MEL_HOP :].clone()
        if state.frames is not None:  # the convolution's own padding after the last mel frame
            mel[:, max(0, MEL_PER_FRAME * (state.frames - state.steps) - 1) :] = 0.0
        mel = torch.cat([state.mel, mel], dim=1)
        state.mel = mel[:, -2:].clone()
        return mel

    def _block(self, i: int, x: Tensor, valid: Tensor, states: Sequence[ContentState]) -> Tensor:
        """Residual block ``i`` on the next frames ``[B, W, n]``; its outputs are ``futures[i]`` frames earlier.

        Frames before the start and after the end of the speech are not ``valid`` ``[B, n]``; convolutions read 0 there.
        """
        normed = self._encoder.norms[i](x.transpose(1, 2)).transpose(1, 2)
        active = torch.cat([torch.stack([s.activations[i] for s in states]), F.gelu(normed) * valid[:, None]], dim=2)
        before = torch.cat([torch.stack([s.delayed[i] for s in states]), x], dim=2)
        n, context, future = x.shape[2], states[0].activations[i].shape[1], self._encoder.futures[i]
        for state, a, d in zip(states, active, before, strict=True):
            state.activations[i] = a[:, a.shape[1] - context :].clone()
            state.delayed[i] = d[:, d.shape[1] - future :].clone()
        out: Tensor = before[:, :, :n] + self._encoder.blocks[i](active)
        return out
