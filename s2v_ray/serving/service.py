"""What an endpoint does, apart from HTTP: bundles at work, and from a checked request to the parts of an MP4."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.face import Detector, make_detector
from s2v_ray.media.timing import SAMPLES_PER_FRAME, samples_to_frames, seconds_to_frames
from s2v_ray.media.video import SYNTHETIC, FragmentedMp4, Mp4Writer
from s2v_ray.models.teachers import FaceNetwork, load
from s2v_ray.serving.batching import Batcher
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.settings import ServeSettings

LISTEN_FRAMES = seconds_to_frames(4.0)
"""What a stream hears for identity and emotion before it draws: longer than a clip of distillation."""


@dataclass(frozen=True)
class Order:
    """A checked request for one video.

    Attributes:
        speech: float32 ``[N]``, 16 kHz mono.
        model: name of the bundle.
        identity: ``[D]``; None for the one heard. emotion: a name, ``[E]``, or None for the one heard.
        still: uint8 ``[S, S, 3]`` for a reference bundle.
        size: side of the video, pixels; 0 for the bundle's own.
    """

    speech: np.ndarray
    model: str
    identity: Tensor | None = None
    emotion: str | Tensor | None = None
    still: np.ndarray | None = None
    seed: int = 0
    size: int = 0

    @property
    def frames(self) -> int:
        """Frames of the video."""
        return samples_to_frames(len(self.speech))


class Loads(Protocol):
    """Gives a bundle at work by its name, which is one of the endpoint's."""

    async def __call__(self, name: str) -> Batcher: ...


class Bundles:
    """The bundles of this process, loaded when first asked for."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self._loaded: dict[str, Batcher] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, name: str) -> Batcher:
        async with self._lock:
            if name not in self._loaded:
                self._loaded[name] = await asyncio.to_thread(open_bundle, self.settings, name)
            return self._loaded[name]


def open_bundle(settings: ServeSettings, name: str) -> Batcher:
    """Loads the bundle of that name.

    Raises:
        ArtifactError: no sound speech2video bundle is there.
    """
    return Batcher(Predictor(settings.uris()[name], settings.device), settings.batch_frames, threads=settings.threads)


class Gate:
    """Lets so many through at a time, and refuses the next at once.

    Args:
        code, sentence: of the refusal.
    """

    def __init__(self, most: int, code: str, sentence: str, retry_after: int) -> None:
        self.most, self.inside = most, 0
        self._refusal = code, sentence, retry_after

    def enter(self) -> None:
        """Every ``enter`` that returns needs one ``leave``.

        Raises:
            ApiError: too many are inside.
        """
        if self.inside >= self.most:
            raise ApiError(*self._refusal)
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1

    @contextmanager
    def __call__(self) -> Any:
        self.enter()
        try:
            yield
        finally:
            self.leave()


@dataclass
class Service:
    """An endpoint's work. ``load`` gives bundles; ``on_frames`` is told how many frames were made."""

    settings: ServeSettings
    load: Loads
    on_frames: Callable[[int], None] = lambda count: None
    ready: bool = False
    teacher: FaceNetwork | None = None
    _detector: Detector | None = field(default=None, repr=False)

    async def start(self) -> None:
        """Loads what answers, and draws one frame with it, so that the first caller does not wait for that."""
        batcher = await self.load(next(iter(self.settings.uris())))
        if self.settings.teacher:
            self.teacher = await asyncio.to_thread(load, self.settings.teacher)
        self._detector = await asyncio.to_thread(make_detector, self.settings.detector)
        predictor = batcher.predictor
        still = np.zeros((predictor.size, predictor.size, 3), np.uint8) if predictor.reference else None
        async for _ in batcher.draw(GenerationRequest(np.zeros(SAMPLES_PER_FRAME, np.float32), still=still)):
            pass
        self.ready = True

    @property
    def detector(self) -> Detector | None:
        """Finds the face in a picture."""
        return self._detector

    async def hear(self, model: str, speech: np.ndarray) -> tuple[Tensor, Tensor]:
        """Codes of identity ``[D]`` and emotion ``[E]`` of a speech."""
        batcher = await self.load(model)
        codes = await batcher.run(lambda: batcher.predictor.encode_speech(speech))
        return codes.identity, codes.emotion

    async def see(self, model: str, face: np.ndarray) -> Tensor:
        """The teacher's code ``[D]`` of an aligned crop: the seen identity.

        Raises:
            ApiError: face_not_usable.
        """
        teacher, batcher = self.teacher, await self.load(model)
        if teacher is None or teacher.dim != batcher.predictor.card["identity_dim"]:
            sentence = "face: this endpoint has no identity teacher for that bundle (--teacher): leave the picture out, or send identity_speech"
            raise ApiError("face_not_usable", sentence)
        return await batcher.run(lambda: teacher(face[None])[0])

    async def frames(self, order: Order, listen: int | None = None) -> AsyncIterator[np.ndarray]:
        """Parts of the video, uint8 ``[t, size, size, 3]``."""
        batcher = await self.load(order.model)
        parts = batcher.draw(
            GenerationRequest(order.speech, order.identity, order.emotion, order.still, order.seed, listen)
        )
        async with aclosing(parts):  # type: ignore[type-var]  # it is a generator
            async for part in parts:
                self.on_frames(len(part))
                yield part

    async def stream(self, order: Order) -> AsyncIterator[bytes]:
        """Fragmented MP4 while it is made. Identity and emotion are heard in the first seconds, so that long speech begins soon."""
        fragments, done = FragmentedMp4(SYNTHETIC), 0
        async with aclosing(self.frames(order, listen=LISTEN_FRAMES)) as parts:  # type: ignore[type-var]
            async for part in parts:
                sound = _under(order.speech, done, len(part))
                done += len(part)
                if data := await asyncio.to_thread(lambda p, s: fragments.add(_sized(p, order.size), s), part, sound):
                    yield data
        yield await asyncio.to_thread(fragments.close)

    async def write(self, order: Order, path: Path, progress: Callable[[int], None] = lambda done: None) -> None:
        """The whole MP4, to a local path. ``progress`` is told how many frames are done."""
        writer: Mp4Writer | None = None
        try:
            async with aclosing(self.frames(order)) as parts:  # type: ignore[type-var]
                async for part in parts:
                    sized = _sized(part, order.size)
                    if writer is None:
                        writer = Mp4Writer(str(path), sized[0], metadata=SYNTHETIC)
                    await asyncio.to_thread(_add, writer, sized, _under(order.speech, writer.frames, len(part)))
                    progress(writer.frames)
        except BaseException:
            if writer is not None:
                writer.abort()
            raise
        assert writer is not None  # a speech has at least one frame
        await asyncio.to_thread(writer.close)

    async def whole(self, order: Order) -> IO[bytes]:
        """The whole MP4 as an open file that has no name any more.

        Raises:
            ApiError: too_slow.
        """
        with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
            path = Path(folder) / "made.mp4"
            try:
                async with asyncio.timeout(self.settings.limits.draw_seconds):
                    await self.write(order, path)
            except TimeoutError:
                seconds = self.settings.limits.draw_seconds
                raise ApiError(
                    "too_slow", f"the video took longer than {seconds:g} s: send it to /v1/jobs, or a shorter one"
                ) from None
            return path.open("rb")


def _add(writer: Mp4Writer, frames: np.ndarray, sound: np.ndarray) -> None:
    for frame, under in zip(frames, sound.reshape(len(frames), -1), strict=True):
        writer.add_frame(frame)
        writer.add_audio(under)


def _under(speech: np.ndarray, first: int, frames: int) -> np.ndarray:
    """The sound under ``frames`` frames from ``first``, filled up with silence: float32 ``[frames * 640]``."""
    sound = speech[first * SAMPLES_PER_FRAME : (first + frames) * SAMPLES_PER_FRAME]
    return np.pad(sound, (0, frames * SAMPLES_PER_FRAME - len(sound)))


def _sized(frames: np.ndarray, size: int) -> np.ndarray:
    if size in (0, frames.shape[1]):
        return frames
    how = cv2.INTER_AREA if size < frames.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(f, (size, size), interpolation=how) for f in frames])


def tensor_of(values: list[float] | None) -> Tensor | None:
    """A code that was kept as plain numbers."""
    return None if values is None else torch.tensor(values)
