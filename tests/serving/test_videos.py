"""Videos outlive the replica that accepted them, can be deleted, and expire."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.service import Service, VideoRequest
from s2v_ray.serving.settings import parse_settings
from s2v_ray.serving.video_store import VideoIndex
from s2v_ray.serving.videos import LEASE_SECONDS, Video, Videos
from tests.helpers.bundles import SIZE
from tests.helpers.sounds import speech


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_replica(uris: dict[str, str], tmp_path: Path, clock: Clock) -> Callable[..., Videos]:
    """Makes replicas of one endpoint."""

    def make(uri: str = str(tmp_path / "videos")) -> Videos:
        settings = parse_settings({"bundle": uris["bundle"], "videos": uri, "video_hours": 1, "limits": {"videos": 2}})
        return Videos(Service(settings, LocalBundles(settings)), uri, settings, clock)

    return make


def make_request(seconds: float, seed: int = 0) -> VideoRequest:
    return VideoRequest(GenerationRequest(speech(seconds), seed=seed), "default", SIZE)


@asynccontextmanager
async def running(videos: Videos) -> AsyncIterator[Videos]:
    """Within the context, the replica generates videos."""
    await videos.start()
    try:
        yield videos
    finally:
        await videos.stop()
        await videos.service.close()


async def wait_for(videos: Videos, video: str, status: str) -> Video:
    for _ in range(600):
        shown = await videos.get(video)
        if shown.status == status:
            return shown
        await asyncio.sleep(0.05)
    raise AssertionError(f"the video is still {shown.status}")


def test_another_replica_finishes_the_videos_of_a_lost_one(make_replica: Callable[..., Videos], clock: Clock) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        video = (await first.create(make_request(1.0, seed=4))).id
        await second.sweep()
        assert not second.held, "the first replica may still be working on it"
        clock.now += LEASE_SECONDS + 1
        async with running(second):
            shown = await wait_for(second, video, "completed")
            assert (shown.seconds, shown.size) == ("1", "32x32")
            url, data = await second.content(video)
        assert url is None
        assert len(data) > 1000
        assert first.store.read_content(video) == data

    asyncio.run(run())


@pytest.mark.parametrize("method", ["write_request", "write_state", "mark_open"])
def test_a_search_of_another_replica_does_not_disturb_a_video_that_is_being_created(
    make_replica: Callable[..., Videos], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    first, second = make_replica(), make_replica()
    written = getattr(first.store, method)

    def then_search(*args: Any) -> None:
        written(*args)
        asyncio.run(second.sweep())

    monkeypatch.setattr(first.store, method, then_search)

    async def run() -> None:
        video = (await first.create(make_request(0.4))).id
        assert second.store.read_state(video).status == "queued" and not second.held
        assert second.store.read_index().open == {video}
        assert second.store.read_request(video).frames == 10

    asyncio.run(run())


def test_a_replica_that_stops_releases_its_videos_at_once(make_replica: Callable[..., Videos]) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        video = (await first.create(make_request(0.4))).id
        await first.stop()
        async with running(second):
            await wait_for(second, video, "completed")

    asyncio.run(run())


async def assert_deleted(videos: Videos, video: str) -> None:
    for ask in (videos.get, videos.content, videos.delete):
        with pytest.raises(ApiError) as caught:
            await ask(video)
        assert caught.value.code == "unknown_video"
    assert (await videos.list_page(None, 10, "asc")).data == []


def test_a_queued_video_can_be_deleted(make_replica: Callable[..., Videos]) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        video = (await first.create(make_request(1.0))).id
        with pytest.raises(ApiError, match="the video is queued: ask again later"):
            await second.content(video)
        assert (await first.delete(video)).deleted
        await assert_deleted(first, video)
        await assert_deleted(second, video)
        assert storage.list_files(first.store.uri) == []

    asyncio.run(run())


def test_a_video_in_progress_can_be_deleted(make_replica: Callable[..., Videos]) -> None:
    async def run() -> None:
        async with running(make_replica()) as videos:
            video = (await videos.create(make_request(60.0))).id
            await wait_for(videos, video, "in_progress")
            await videos.delete(video)
            await assert_deleted(videos, video)
            assert storage.list_files(videos.store.uri) == []
            other = (await videos.create(make_request(0.2))).id
            await wait_for(videos, other, "completed")

    asyncio.run(run())


def test_another_replica_can_delete_a_video_in_progress(
    make_replica: Callable[..., Videos], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2v_ray.serving.videos.HEARTBEAT_SECONDS", 0.1)

    async def run() -> None:
        second = make_replica()
        async with running(make_replica()) as first:
            video = (await first.create(make_request(60.0))).id
            await wait_for(first, video, "in_progress")
            await second.delete(video)
            await assert_deleted(first, video)
            for _ in range(600):
                if not storage.list_files(second.store.uri):
                    break
                await asyncio.sleep(0.05)
            assert first.held == {}
            assert storage.list_files(second.store.uri) == []

    asyncio.run(run())


def test_a_deleted_video_of_a_lost_replica_is_removed(make_replica: Callable[..., Videos], clock: Clock) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        video = (await first.create(make_request(0.2))).id
        await second.delete(video)
        await second.sweep()
        assert storage.list_files(second.store.uri), "the first replica may still be working on it"
        clock.now += LEASE_SECONDS + 1
        await second.sweep()
        assert storage.list_files(second.store.uri) == []
        assert second.held == {}

    asyncio.run(run())


def test_a_completed_video_can_be_deleted(make_replica: Callable[..., Videos]) -> None:
    async def run() -> None:
        async with running(make_replica()) as videos:
            video = (await videos.create(make_request(0.2))).id
            await wait_for(videos, video, "completed")
            await videos.delete(video)
            await assert_deleted(videos, video)

    asyncio.run(run())


def test_too_many_videos_are_refused(make_replica: Callable[..., Videos]) -> None:
    async def run() -> None:
        videos = make_replica()
        for _ in range(2):
            await videos.create(make_request(0.2))
        with pytest.raises(ApiError) as caught:
            await videos.create(make_request(0.2))
        assert caught.value.code == "too_many_videos"
        assert caught.value.headers is not None and "Retry-After" in caught.value.headers

    asyncio.run(run())


def test_videos_expire(make_replica: Callable[..., Videos], clock: Clock) -> None:
    async def run() -> None:
        videos, other = make_replica(), make_replica()
        submitted = [await videos.create(make_request(0.2)) for _ in range(2)]
        clock.now += 3601
        with pytest.raises(ApiError, match="no such video"):
            await other.get(submitted[0].id)
        assert other.store.read_index().hours == [0]
        clock.now += 3600  # the last one of the hour has expired
        await other.sweep()
        assert storage.list_files(other.store.uri) == []
        await other.sweep()
        assert other.store.read_index() == VideoIndex()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("secret detail"), "internal", "an internal error of the endpoint"),
        (ApiError("unknown_model", "the bundle is gone"), "unknown_model", "the bundle is gone"),
        (ValueError("cannot read s3://key:secret@bucket"), "internal", "cannot read s3://***@bucket"),
    ],
)
def test_a_failed_video_has_an_error(
    make_replica: Callable[..., Videos], monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, message: str
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    async def run() -> None:
        videos = make_replica()
        monkeypatch.setattr(videos.service, "write", fail)
        async with running(videos):
            video = (await videos.create(make_request(0.2))).id
            shown = await wait_for(videos, video, "failed")
        assert shown.error is not None
        assert (shown.error.code, shown.error.message) == (code, message)

    asyncio.run(run())


def test_videos_on_s3_are_fetched_by_a_presigned_url(make_replica: Callable[..., Videos], bucket: str) -> None:
    async def run() -> list[tuple[str | None, bytes]]:
        async with running(make_replica(f"{bucket}/videos")) as videos:
            video = (await videos.create(make_request(0.2))).id
            await wait_for(videos, video, "completed")
            return [await videos.content(video), await videos.content(video, redirect=False)]

    (url, nothing), (no_url, data) = asyncio.run(run())
    assert url is not None and nothing == b""
    assert no_url is None and data[4:8] == b"ftyp"
    with urllib.request.urlopen(url) as response:
        assert response.read() == data
