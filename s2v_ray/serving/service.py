"""The work of an endpoint without HTTP: from a checked request to an MP4, whole or in fragments."""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from torch import Tensor

from s2v_ray.inference.request import GenerationRequest
from s2v_ray.inference.state import SpeechCodes
from s2v_ray.media.face import Detector, make_detector
from s2v_ray.media.timing import SAMPLES_PER_FRAME, seconds_to_frames
from s2v_ray.media.video import SYNTHETIC, FragmentedMp4, Mp4Writer
from s2v_ray.models.teachers import FaceNetwork, load
from s2v_ray.serving.bundles import BundleLoader
from s2v_ray.serving.concurrency import run_in_thread
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.live_capacity import measure_capacity
from s2v_ray.serving.metrics import Metrics
from s2v_ray.serving.settings import ServeSettings
from s2v_ray.serving.traces import span

STREAM_CODE_FRAMES = seconds_to_frames(4.0)
"""Number of frames from which a stream predicts identity and emotion: longer than a clip of distillation."""

logger = logging.getLogger(__name__)


def _ignore(_: int) -> None:
    """Callback that does nothing."""


@dataclass(frozen=True, eq=False)
class VideoRequest:
    """A checked request for one video.

    Attributes:
        generation: speech and codes.
        model: name of the bundle.
        size: side of the video, in pixels.
    """

    generation: GenerationRequest
    model: str
    size: int

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return self.generation.frames


class Service:
    """The work of an endpoint.

    Args:
        settings: settings of the endpoint.
        bundles: gives loaded bundles.

    Attributes:
        ready: whether the bundle is loaded and has generated a frame.
        live_sessions: largest number of live sessions: that of the settings, or measured at the start.
        teacher: identity teacher, which computes the image identity of a face; None if the settings name none.
        detector: finds faces in pictures.
        metrics: metrics of the replica.
    """

    def __init__(self, settings: ServeSettings, bundles: BundleLoader) -> None:
        self.settings, self.bundles = settings, bundles
        self.ready = False
        self.live_sessions = settings.limits.live or 0
        self.teacher: FaceNetwork | None = None
        self.detector: Detector | None = None
        self.metrics = Metrics()

    async def start(self) -> None:
        """Loads the default bundle, and generates one frame with it, so that the first request does not wait for that.

        Then it measures how many live sessions the replica can serve, unless the settings say it.

        Raises:
            ArtifactError: bundle or teacher cannot be loaded.
        """
        batcher = await self.bundles.load(next(iter(self.settings.uris())))
        if self.settings.teacher:
            self.teacher = await run_in_thread(load, self.settings.teacher)
        self.detector = await run_in_thread(make_detector, self.settings.detector)
        size = batcher.predictor.size
        still = np.zeros((size, size, 3), np.uint8) if batcher.predictor.reference else None
        request = GenerationRequest(np.zeros(SAMPLES_PER_FRAME, np.float32), still=still)
        async with aclosing(batcher.generate(request)) as parts:
            async for _ in parts:
                pass
        if not self.live_sessions:
            self.live_sessions = await batcher.run(lambda: measure_capacity(batcher.predictor))
            logger.info("this replica serves %d live sessions at a time", self.live_sessions)
        self.ready = True

    async def close(self) -> None:
        """Unloads the bundles."""
        self.ready = False
        await self.bundles.close()

    async def encode_speech(self, model: str, speech: np.ndarray) -> SpeechCodes:
        """Codes that a bundle predicts from speech."""
        with span("encode speech", model=model):
            batcher = await self.bundles.load(model)
            return await batcher.run(lambda: batcher.predictor.encode_speech(speech))

    async def image_identity(self, model: str, face: np.ndarray) -> Tensor:
        """The teacher's identity code ``[D]`` of an aligned crop, uint8 ``[S, S, 3]``.

        Raises:
            ApiError: face_not_usable.
        """
        teacher, batcher = self.teacher, await self.bundles.load(model)
        if teacher is None or teacher.dim != batcher.predictor.card["identity_dim"]:
            raise ApiError(
                "face_not_usable",
                "face: this endpoint has no identity teacher for that bundle (--teacher): "
                "leave the picture out, or send identity_speech",
            )
        return await batcher.run(lambda: teacher(face[None])[0])

    async def frames(self, request: VideoRequest) -> AsyncGenerator[np.ndarray, None]:
        """Yields chunks of frames, uint8 ``[t, size, size, 3]``."""
        metrics, model, seconds = self.metrics, request.model, 0.0
        try:
            batcher = await self.bundles.load(model)
            with span("generate", model=model, frames=request.frames, size=request.size):
                async with aclosing(batcher.generate(request.generation)) as parts:
                    began = time.monotonic()
                    async for part in parts:
                        seconds += time.monotonic() - began  # without the time that the receiver takes
                        metrics.frames.labels(model).inc(len(part))
                        same = request.size == part.shape[1]
                        yield part if same else await run_in_thread(_resize, part, request.size)
                        began = time.monotonic()
        except Exception:
            metrics.failed.labels(model).inc()
            raise
        metrics.frame_seconds.labels(model).observe(seconds / request.frames)

    async def stream(self, request: VideoRequest) -> AsyncGenerator[bytes, None]:
        """Yields fragmented MP4 while it is generated.

        Identity and emotion are predicted from the first seconds, so that long speech begins as early as short speech.
        """
        early = replace(request, generation=replace(request.generation, code_frames=STREAM_CODE_FRAMES))
        fragments, done = FragmentedMp4(SYNTHETIC), 0
        try:
            async with aclosing(self.frames(early)) as parts:
                async for part in parts:
                    speech = speech_of(request.generation.speech, done, len(part))
                    done += len(part)
                    if data := await run_in_thread(fragments.add, part, speech):
                        yield data
            yield await run_in_thread(fragments.close)
        finally:
            fragments.abort()

    async def write(self, request: VideoRequest, path: Path, on_progress: Callable[[int], None] = _ignore) -> None:
        """Writes the MP4 to a local path.

        Args:
            request: the request.
            path: local path.
            on_progress: called with the number of frames that are written.
        """
        writer: Mp4Writer | None = None
        try:
            async with aclosing(self.frames(request)) as parts:
                async for part in parts:
                    if writer is None:
                        writer = Mp4Writer(str(path), part[0], metadata=SYNTHETIC)
                    speech = speech_of(request.generation.speech, writer.frames, len(part))
                    await run_in_thread(_encode, writer, part, speech)
                    on_progress(writer.frames)
            assert writer is not None, "speech has at least one frame"
            await run_in_thread(writer.close)
        except BaseException:
            if writer is not None:
                writer.abort()
            raise

    async def render(self, request: VideoRequest) -> IO[bytes]:
        """Generates the whole MP4; returns it as an open file that has no name.

        Raises:
            ApiError: too_slow.
        """
        seconds = self.settings.limits.draw_seconds
        with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
            path = Path(folder) / "video.mp4"
            try:
                async with asyncio.timeout(seconds):
                    await self.write(request, path)
            except TimeoutError:
                raise ApiError(
                    "too_slow",
                    f"the video took longer than {seconds:g} s: submit it to /v1/videos, or send shorter speech",
                ) from None
            return path.open("rb")


def speech_of(speech: np.ndarray, first: int, frames: int) -> np.ndarray:
    """The speech of ``frames`` frames starting at ``first``, padded with silence: float32 ``[frames * 640]``."""
    part = speech[first * SAMPLES_PER_FRAME : (first + frames) * SAMPLES_PER_FRAME]
    return np.pad(part, (0, frames * SAMPLES_PER_FRAME - len(part)))


def _encode(writer: Mp4Writer, frames: np.ndarray, speech: np.ndarray) -> None:
    """Encodes frames and their speech, ``[t, H, W, 3]`` and ``[t * 640]``, in turn."""
    for frame, samples in zip(frames, speech.reshape(len(frames), -1), strict=True):
        writer.add_frame(frame)
        writer.add_audio(samples)


def _resize(frames: np.ndarray, size: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if size < frames.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (size, size), interpolation=interpolation) for frame in frames])
