"""The work of an endpoint without HTTP, and that cancellation never closes an encoder that is in use."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray.errors import ArtifactError
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.video import FragmentedMp4, Mp4Writer, read_video
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.service import Service, VideoRequest, speech_of
from s2v_ray.serving.settings import parse_settings
from tests.helpers.bundles import DIM, SIZE
from tests.helpers.http import frames_of
from tests.helpers.sounds import speech


def make_service(uris: dict[str, str], **settings: object) -> Service:
    parsed = parse_settings({**uris, **settings})
    return Service(parsed, LocalBundles(parsed))


def test_a_service_loads_what_it_needs(uris: dict[str, str]) -> None:
    async def run() -> None:
        service = make_service(uris)
        assert not service.ready
        await service.start()
        assert service.ready and service.teacher is not None and service.detector is not None
        assert service.live_sessions >= 1, "measured"
        codes = await service.encode_speech("default", speech(0.5))
        assert codes.identity.shape == (DIM,)
        identity = await service.image_identity("default", np.zeros((32, 32, 3), np.uint8))
        assert identity.norm().item() == pytest.approx(1.0)
        await service.close()
        assert not service.ready

    asyncio.run(run())


def test_without_a_teacher_a_face_cannot_replace_a_voice(uris: dict[str, str]) -> None:
    async def run() -> None:
        service = make_service({"bundle": uris["bundle"]})
        with pytest.raises(ApiError, match="no identity teacher"):
            await service.image_identity("default", np.zeros((32, 32, 3), np.uint8))
        await service.close()

    asyncio.run(run())


def test_rendered_and_streamed_videos_have_the_requested_size(uris: dict[str, str]) -> None:
    request = VideoRequest(GenerationRequest(speech(0.4)), "default", size=48)
    service = make_service(uris)

    async def run() -> tuple[bytes, bytes]:
        with await service.render(request) as file:
            whole = file.read()
        streamed = b"".join([part async for part in service.stream(request)])
        await service.close()
        return whole, streamed

    for content in asyncio.run(run()):
        assert frames_of(content).shape == (10, 48, 48, 3)
    found = service.metrics.registry.get_sample_value
    assert found("s2v_frames_total", {"model": "default"}) == 20
    assert found("s2v_frame_seconds_count", {"model": "default"}) == 2
    assert 0 < (found("s2v_frame_seconds_sum", {"model": "default"}) or 0) < 60
    assert found("s2v_failed_total", {"model": "default"}) is None


def test_failures_are_counted_by_bundle(uris: dict[str, str], tmp_path: Path) -> None:
    service = make_service({**uris, "bundles": {"broken": str(tmp_path)}})

    async def run() -> None:
        with pytest.raises(ArtifactError):
            await service.write(VideoRequest(GenerationRequest(speech(0.2)), "broken", size=48), tmp_path / "out.mp4")
        await service.close()

    asyncio.run(run())
    assert service.metrics.registry.get_sample_value("s2v_failed_total", {"model": "broken"}) == 1


def test_progress_is_the_number_of_written_frames(uris: dict[str, str], tmp_path: Path) -> None:
    done: list[int] = []

    async def run() -> None:
        service = make_service(uris)
        await service.write(
            VideoRequest(GenerationRequest(speech(2.0)), "default", SIZE), tmp_path / "a.mp4", done.append
        )
        await service.close()

    asyncio.run(run())
    assert done == sorted(done)
    assert done[-1] == 50 == len(read_video(tmp_path / "a.mp4").frames)


def test_speech_of_frames_is_padded_with_silence() -> None:
    samples = np.arange(1, 1000, dtype=np.float32)
    assert speech_of(samples, 0, 1).tolist() == samples[:640].tolist()
    last = speech_of(samples, 1, 2)
    assert len(last) == 1280
    assert last[: 999 - 640].tolist() == samples[640:].tolist()
    assert not last[999 - 640 :].any()


def test_sound_and_frames_of_a_stream_are_in_sync(tmp_path: Path) -> None:
    bright = np.zeros((50, 32, 32, 3), np.uint8)
    bright[20:22] = 255  # at 0.8 s
    sound = np.zeros(50 * 640, np.float32)
    sound[12800:13440] = 0.8 * np.sin(np.arange(640) * 0.4)
    stream = FragmentedMp4()
    parts = [stream.add(bright[i : i + 10], sound[i * 640 : (i + 10) * 640]) for i in range(0, 50, 10)]
    (tmp_path / "video.mp4").write_bytes(b"".join([*parts, stream.close()]))
    video = read_video(tmp_path / "video.mp4")
    flash = video.times[np.argmax(video.frames.mean((1, 2, 3)))]
    assert video.audio is not None
    tone = video.audio.start + np.argmax(np.abs(video.speech) > 0.2) / 16000
    assert flash == pytest.approx(tone, abs=0.02)


# ---- cancellation


class EndlessFrames(Service):
    """Generates frames of noise without a model."""

    async def frames(self, request: VideoRequest) -> AsyncGenerator[np.ndarray, None]:
        part = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3)).astype(np.uint8)
        for _ in range(request.frames // 16):
            yield part
            await asyncio.sleep(0)


LONG = VideoRequest(GenerationRequest(np.zeros(3200 * 640, np.float32)), "default", 64)


@pytest.fixture
def overlaps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is called on an encoder while another thread uses it."""
    found: list[str] = []
    using = threading.Event()
    add_frame, abort = Mp4Writer.add_frame, Mp4Writer.abort

    def slow_add_frame(self: Mp4Writer, data: np.ndarray) -> None:
        using.set()
        time.sleep(0.02)
        add_frame(self, data)
        using.clear()

    def checked_abort(self: Mp4Writer) -> None:
        if using.is_set():
            found.append("abort")
        abort(self)

    monkeypatch.setattr(Mp4Writer, "add_frame", slow_add_frame)
    monkeypatch.setattr(Mp4Writer, "abort", checked_abort)
    return found


def test_a_cancelled_file_is_closed_after_its_encoder_has_stopped(
    uris: dict[str, str], tmp_path: Path, overlaps: list[str]
) -> None:
    async def run() -> None:
        service = EndlessFrames(parse_settings(uris), LocalBundles(parse_settings(uris)))
        task = asyncio.create_task(service.write(LONG, tmp_path / "a.mp4"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert overlaps == []


def test_a_stream_that_is_left_closes_its_encoder_after_it_has_stopped(
    uris: dict[str, str], overlaps: list[str]
) -> None:
    async def read_one(service: Service) -> None:
        async with aclosing(service.stream(LONG)) as parts:
            async for _ in parts:
                pass

    async def run() -> None:
        service = EndlessFrames(parse_settings(uris), LocalBundles(parse_settings(uris)))
        task = asyncio.create_task(read_one(service))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert overlaps == []


@pytest.mark.slow
def test_cancelling_at_any_time_does_not_crash(uris: dict[str, str], tmp_path: Path) -> None:
    """Closing a container while a thread encodes crashes the process, usually within 150 cancellations."""

    async def run() -> None:
        rng = random.Random(0)
        service = EndlessFrames(parse_settings(uris), LocalBundles(parse_settings(uris)))
        for _ in range(100):
            task = asyncio.create_task(service.write(LONG, tmp_path / "a.mp4"))
            await asyncio.sleep(0.002 + 0.05 * rng.random())
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())


def test_a_stream_predicts_codes_from_its_first_seconds(uris: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int | None] = []

    async def run() -> None:
        service = make_service(uris)
        batcher = await service.bundles.load("default")
        generate = batcher.generate
        monkeypatch.setattr(batcher, "generate", lambda r: seen.append(r.code_frames) or generate(r))
        async for _ in service.stream(VideoRequest(GenerationRequest(speech(0.4), torch.ones(DIM)), "default", SIZE)):
            pass
        with await service.render(VideoRequest(GenerationRequest(speech(0.4)), "default", SIZE)):
            pass
        await service.close()

    asyncio.run(run())
    assert seen == [100, None]
