"""The predictor: a loaded speech2video bundle that turns speech into frames, whole or in chunks.

Apart from the speech itself, memory does not grow with its length. A first pass over the speech, chunk by chunk,
predicts the codes of identity and emotion. A second pass encodes the content and generates frames. The content of a
frame depends on at most ``student.past_frames`` frames before and ``student.future_frames`` after it, so each chunk is
encoded with that much real context, and the result does not depend on the chunk sizes.

The take is that of a picture, or is drawn from the prior given both codes; the motion is drawn from its own prior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from s2v_ray.clip import to_pixels, to_unit
from s2v_ray.config import parse_recipe
from s2v_ray.inference.request import GenerationRequest, frames_of, pad_to_frames
from s2v_ray.inference.state import CodeAverage, GenerationState, SpeechCodes, split_evenly
from s2v_ray.media.audio import log_mel
from s2v_ray.media.timing import frames_to_samples, seconds_to_frames
from s2v_ray.models.bundle import load_bundle
from s2v_ray.models.generator import ClipCodes
from s2v_ray.models.student import StudentOutput
from s2v_ray.models.take import MotionSequence, NoiseSequence

SPEECH_CHUNK_FRAMES = seconds_to_frames(10.0)
"""Number of frames of speech that are encoded at a time."""
VIDEO_CHUNK_FRAMES = 16
"""Number of video frames that are generated at a time."""


class Predictor:
    """A loaded speech2video bundle.

    Args:
        bundle_uri: URI of the bundle.
        device: device of the networks.
        speech_chunk_frames: largest number of frames of speech that are encoded at a time.
        video_chunk_frames: largest number of video frames that ``generate`` yields at a time. Both sizes change speed
            and memory, not the frames.

    Attributes:
        card: card of the bundle.
        emotions: names that ``GenerationRequest.emotion`` accepts.
        reference: whether the bundle is a reference baseline, which requires a still.
        size: side of the generated frames, in pixels.

    Raises:
        ArtifactError: there is no intact speech2video bundle at ``bundle_uri``.
    """

    def __init__(
        self,
        bundle_uri: str,
        device: torch.device | str = "cpu",
        *,
        speech_chunk_frames: int = SPEECH_CHUNK_FRAMES,
        video_chunk_frames: int = VIDEO_CHUNK_FRAMES,
    ) -> None:
        model, self.card = load_bundle(bundle_uri, "speech2video")
        self.model = model.to(device)
        self.device = torch.device(device)
        self.emotions: tuple[str, ...] = tuple(self.card["emotions"])
        self.reference: bool = self.card["reference"]
        self.size: int = parse_recipe(self.card["recipe"]).media.size
        self._speech_chunk_frames = speech_chunk_frames
        self._video_chunk_frames = video_chunk_frames

    def encode_speech(self, speech: np.ndarray) -> SpeechCodes:
        """Predicts the codes of speech, float32 ``[N]`` at 16 kHz in [-1, 1].

        Speech longer than one chunk is split into chunks of nearly equal length. Its codes are the mean over the
        chunks, and the identity is scaled back to unit length.

        Raises:
            ValueError: the speech is shorter than a frame, or not finite.
        """
        padded = pad_to_frames(speech)
        codes = self._encode(padded)
        # Clones of inference tensors can be used in autograd.
        return SpeechCodes(codes.identity.clone(), codes.emotion.clone(), codes.emotion_logits.clone())

    def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]:
        """Generates the frames of a request.

        Returns:
            Iterator over chunks, uint8 ``[t, size, size, 3]``; in total one frame for each started 40 ms of speech.

        Raises:
            ValueError: the request cannot be used. The call itself raises it, before the first frame is generated.
        """
        return self._run(self.begin(request))

    def begin(self, request: GenerationRequest) -> GenerationState:
        """Checks a request and creates its state, without computing anything yet.

        Use it with ``encode_next_chunk`` and ``generate_next`` to generate several requests in one batch.

        Raises:
            ValueError: the request cannot be used.
        """
        speech = pad_to_frames(request.speech)
        still = self._prepare_still(request.still)
        identity, emotion = self.given_codes(request.identity, request.emotion)
        frames = frames_of(speech)
        if request.code_frames is not None:
            if request.code_frames < 1:
                raise ValueError(f"code_frames must be at least 1, not {request.code_frames}")
            frames = min(request.code_frames, frames)
        complete = identity is not None and emotion is not None
        take = self.take_of(request.take)
        white, motion, noise = self.seeded(request.seed)
        return GenerationState(
            speech,
            identity,
            emotion,
            still,
            take=take,
            white=white,
            motion=motion,
            noise=noise,
            contents=self._contents(speech),
            pending_spans=[] if complete else list(split_evenly(frames, self._speech_chunk_frames)),
        )

    def given_codes(self, identity: Tensor | None, emotion: str | Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Checks the codes of a request: identity (unit length) and emotion, or None for those to be predicted.

        Raises:
            ValueError: the emotion is unknown, or a code is not finite or has the wrong length.
        """
        known = self.model.student.emotion_codes
        if isinstance(emotion, str):
            if emotion not in self.emotions:
                raise ValueError(f"unknown emotion {emotion!r}: this bundle has {', '.join(self.emotions)}")
            emotion = known[self.emotions.index(emotion)]
        _check_code("identity", identity, self.card["identity_dim"])
        _check_code("emotion", emotion, known.shape[1])
        if identity is not None:
            if not identity.any():
                raise ValueError(f"identity must be {len(identity)} finite numbers that are not all 0")
            identity = F.normalize(identity.to(self.device, torch.float32), dim=0)
        return identity, None if emotion is None else emotion.to(self.device, torch.float32)

    def take_of(self, picture: np.ndarray | None) -> Tensor | None:
        """The take ``[Z]`` of a picture, an aligned crop, or None without one.

        Raises:
            ValueError: the picture has the wrong shape, or the bundle is a reference baseline.
        """
        image = self._prepare_take(picture)
        return None if image is None else self.model.take_of(image)[0]

    def seeded(self, seed: int) -> tuple[Tensor, MotionSequence, NoiseSequence]:
        """White noise ``[1 + Z]``, from which a take is drawn, and motion and noise of the frames of one clip."""
        random = torch.Generator().manual_seed(seed)
        # A stream of its own: motion and noise are drawn in chunks, which must not change either.
        noise = torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=random)))
        white = torch.randn(1 + self.model.take_prior.dim, generator=random)
        return white, MotionSequence(self.model.motion_prior, random), NoiseSequence(self.size, noise)

    @torch.inference_mode()
    def encode_next_chunk(self, state: GenerationState) -> bool:
        """Encodes one more chunk of speech for the codes; returns whether the state is ready for ``generate_next``."""
        if state.pending_spans:
            start, end = state.pending_spans[0]
            state.add_codes(self._encode_span(state.speech, start, end), end - start)
        return state.ready

    @torch.inference_mode()
    def generate_next(self, states: Sequence[GenerationState], frames: int = VIDEO_CHUNK_FRAMES) -> list[np.ndarray]:
        """Generates the next frames of several requests in one batch; each gets the frames that it would get alone.

        Args:
            states: states that are ready (see ``encode_next_chunk``) and have remaining frames.
            frames: largest number of frames for each.

        Returns:
            uint8 ``[t, size, size, 3]`` for each state, ``1 <= t <= frames``.
        """
        parts = [state.next_inputs(frames) for state in states]
        inputs = [
            pad_sequence([x[0] for x in same], batch_first=True).to(self.device) for same in zip(*parts, strict=True)
        ]
        frames_made = self.model.generator(self._clip_codes(states), *inputs)
        pixels = to_pixels(frames_made).cpu().numpy()
        return [made[: part[0].shape[1]] for made, part in zip(pixels, parts, strict=True)]

    def _clip_codes(self, states: Sequence[GenerationState]) -> ClipCodes:
        """Codes of all states in one batch; draws the takes that are not known yet."""
        identity, emotion = (
            torch.stack([code for code in codes if code is not None])
            for codes in zip(*((state.identity_code, state.emotion_code) for state in states), strict=True)
        )
        for i, state in enumerate(states):
            if state.take is None:
                white = state.white[None].to(self.device)
                state.take = self.model.take_prior.sample(identity[i : i + 1], emotion[i : i + 1], white)[0]
        takes = torch.stack([state.take for state in states if state.take is not None])
        stills = [state.still for state in states if state.still is not None]
        return ClipCodes(identity, emotion, takes, torch.cat(stills) if stills else None)

    def _run(self, state: GenerationState) -> Iterator[np.ndarray]:
        while not self.encode_next_chunk(state):
            pass
        while state.remaining_frames:
            yield self.generate_next([state], self._video_chunk_frames)[0]

    @torch.inference_mode()
    def _encode(self, speech: Tensor) -> SpeechCodes:
        average = CodeAverage()
        for start, end in split_evenly(frames_of(speech), self._speech_chunk_frames):
            average.add(self._encode_span(speech, start, end), end - start)
        return average.mean()

    def _encode_span(self, speech: Tensor, start: int, end: int) -> StudentOutput:
        output: StudentOutput = self.model.student(self._cut(speech, start, end), content=False)
        return output

    @torch.inference_mode()
    def _next_content(self, speech: Tensor, start: int, end: int) -> Tensor:
        """Content ``[1, end - start, C]`` of a span, encoded with its context."""
        student = self.model.student
        first = max(0, start - student.past_frames)
        mel = log_mel(self._cut(speech, first, min(frames_of(speech), end + student.future_frames)))
        return self.model.student.content_of(mel)[:, start - first : end - first]

    def _contents(self, speech: Tensor) -> Iterator[Tensor]:
        """Content ``[1, t, C]`` of consecutive chunks. Chunks start small, so that the first frames come early."""
        total, end = frames_of(speech), 0
        width = min(2 * self._video_chunk_frames, self._speech_chunk_frames)
        while end < total:
            start, end = end, min(end + width, total)
            width = min(2 * width, self._speech_chunk_frames)
            yield self._next_content(speech, start, end)

    def _cut(self, speech: Tensor, start: int, end: int) -> Tensor:
        return speech[None, frames_to_samples(start) : frames_to_samples(end)].to(self.device)

    def _prepare_still(self, still: np.ndarray | None) -> Tensor | None:
        """A still as input of the generator, ``[1, 3, size, size]`` in [-1, 1]."""
        if not self.reference:
            if still is not None:
                raise ValueError("this bundle takes no still: leave it out, or use a reference bundle")
            return None
        if still is None:
            raise ValueError("this is a reference bundle and needs a still of the speaker: pass one")
        return self._prepare_picture("still", still)

    def _prepare_take(self, take: np.ndarray | None) -> Tensor | None:
        """A picture as input of the take encoder, ``[1, 3, size, size]`` in [-1, 1]."""
        if take is None:
            return None
        if self.reference:
            raise ValueError("this is a reference bundle, whose still gives the take: leave the take out")
        return self._prepare_picture("take", take)

    def _prepare_picture(self, name: str, picture: np.ndarray) -> Tensor:
        shape = picture.shape
        if picture.dtype != np.uint8 or picture.ndim != 3 or shape[0] != shape[1] or shape[2] != 3:
            raise ValueError(f"a {name} must be a uint8 [S, S, 3] aligned crop, not {picture.dtype} {list(shape)}")
        image = to_unit(torch.from_numpy(np.ascontiguousarray(picture)))[None]
        if shape[0] != self.size:
            image = F.interpolate(image, size=(self.size, self.size), mode="bilinear", antialias=True)
        return image.to(self.device)


def _check_code(name: str, code: Tensor | None, width: int) -> None:
    if code is not None and (code.ndim != 1 or len(code) != width or not code.isfinite().all()):
        raise ValueError(f"{name} must be {width} finite numbers, not a tensor of shape {list(code.shape)}")
