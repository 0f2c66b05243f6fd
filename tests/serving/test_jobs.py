"""Jobs outlive the replica that accepted them, can be cancelled, and expire."""

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
from s2v_ray.serving.jobs import LEASE_SECONDS, Jobs, ShownJob
from s2v_ray.serving.service import Service, VideoRequest
from s2v_ray.serving.settings import parse_settings
from tests.helpers.sounds import speech


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_replica(uris: dict[str, str], tmp_path: Path, clock: Clock) -> Callable[..., Jobs]:
    """Makes replicas of one endpoint."""

    def make(uri: str = str(tmp_path / "jobs")) -> Jobs:
        settings = parse_settings({"bundle": uris["bundle"], "jobs": uri, "job_hours": 1, "limits": {"jobs": 2}})
        return Jobs(Service(settings, LocalBundles(settings)), uri, settings, clock)

    return make


def make_request(seconds: float, seed: int = 0) -> VideoRequest:
    return VideoRequest(GenerationRequest(speech(seconds), seed=seed), "default")


@asynccontextmanager
async def running(jobs: Jobs) -> AsyncIterator[Jobs]:
    """Within the context, the replica processes jobs."""
    await jobs.start()
    try:
        yield jobs
    finally:
        await jobs.stop()
        await jobs.service.close()


async def wait_for(jobs: Jobs, job: str, state: str) -> ShownJob:
    for _ in range(600):
        shown = await jobs.get(job)
        if shown.state == state:
            return shown
        await asyncio.sleep(0.05)
    raise AssertionError(f"the job is still {shown.state}")


def test_another_replica_finishes_the_jobs_of_a_lost_one(make_replica: Callable[..., Jobs], clock: Clock) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        job = (await first.submit(make_request(1.0, seed=4))).id
        await second.sweep()
        assert not second.held, "the first replica may still be working on it"
        clock.now += LEASE_SECONDS + 1
        async with running(second):
            shown = await wait_for(second, job, "done")
            assert shown.frames == 25
            assert shown.result == f"/v1/jobs/{job}/video"
            url, data = await second.video(job)
        assert url is None
        assert len(data) > 1000
        assert first.store.read_video(job) == data

    asyncio.run(run())


def test_a_replica_that_stops_releases_its_jobs_at_once(make_replica: Callable[..., Jobs]) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        job = (await first.submit(make_request(0.4))).id
        await first.stop()
        async with running(second):
            await wait_for(second, job, "done")

    asyncio.run(run())


def test_a_waiting_job_can_be_cancelled(make_replica: Callable[..., Jobs]) -> None:
    async def run() -> None:
        first, second = make_replica(), make_replica()
        job = (await first.submit(make_request(1.0))).id
        assert (await first.cancel(job)).state == "cancelled"
        assert (await second.get(job)).state == "cancelled"
        with pytest.raises(ApiError, match="it will have no video"):
            await second.video(job)

    asyncio.run(run())


def test_a_running_job_can_be_cancelled(make_replica: Callable[..., Jobs]) -> None:
    async def run() -> None:
        async with running(make_replica()) as jobs:
            job = (await jobs.submit(make_request(60.0))).id
            await wait_for(jobs, job, "running")
            await jobs.cancel(job)
            assert (await jobs.get(job)).state == "cancelled"
            other = (await jobs.submit(make_request(0.2))).id
            await wait_for(jobs, other, "done")

    asyncio.run(run())


def test_another_replica_can_cancel_a_running_job(
    make_replica: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s2v_ray.serving.jobs.HEARTBEAT_SECONDS", 0.1)

    async def run() -> None:
        second = make_replica()
        async with running(make_replica()) as first:
            job = (await first.submit(make_request(60.0))).id
            await wait_for(first, job, "running")
            await second.cancel(job)
            await wait_for(first, job, "cancelled")

    asyncio.run(run())


def test_a_job_that_has_ended_can_be_removed(make_replica: Callable[..., Jobs]) -> None:
    async def run() -> None:
        async with running(make_replica()) as jobs:
            job = (await jobs.submit(make_request(0.2))).id
            await wait_for(jobs, job, "done")
            assert (await jobs.cancel(job)).state == "done"
            with pytest.raises(ApiError, match="no such job"):
                await jobs.get(job)

    asyncio.run(run())


def test_too_many_jobs_are_refused(make_replica: Callable[..., Jobs]) -> None:
    async def run() -> None:
        jobs = make_replica()
        for _ in range(2):
            await jobs.submit(make_request(0.2))
        with pytest.raises(ApiError) as caught:
            await jobs.submit(make_request(0.2))
        assert caught.value.code == "too_many_jobs"
        assert caught.value.headers is not None and "Retry-After" in caught.value.headers

    asyncio.run(run())


def test_jobs_expire(make_replica: Callable[..., Jobs], clock: Clock) -> None:
    async def run() -> None:
        jobs, other = make_replica(), make_replica()
        submitted = [await jobs.submit(make_request(0.2)) for _ in range(2)]
        clock.now += 3601
        await other.sweep()
        assert storage.list_files(other.store.uri) == []
        with pytest.raises(ApiError, match="no such job"):
            await other.get(submitted[0].id)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("secret detail"), "internal", "an internal error of the endpoint"),
        (ApiError("unknown_model", "the bundle is gone"), "unknown_model", "the bundle is gone"),
        (ValueError("cannot read s3://key:secret@bucket"), "internal", "cannot read s3://***@bucket"),
    ],
)
def test_a_failed_job_has_an_error(
    make_replica: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch, error: Exception, code: str, message: str
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    async def run() -> None:
        jobs = make_replica()
        monkeypatch.setattr(jobs.service, "write", fail)
        async with running(jobs):
            job = (await jobs.submit(make_request(0.2))).id
            shown = await wait_for(jobs, job, "failed")
        assert shown.error is not None
        assert (shown.error.code, shown.error.message) == (code, message)

    asyncio.run(run())


def test_jobs_on_s3_are_fetched_by_a_presigned_url(make_replica: Callable[..., Jobs], bucket: str) -> None:
    async def run() -> tuple[str | None, bytes]:
        async with running(make_replica(f"{bucket}/jobs")) as jobs:
            job = (await jobs.submit(make_request(0.2))).id
            shown = await wait_for(jobs, job, "done")
            assert shown.result is not None and shown.result.startswith("http")
            return await jobs.video(job)

    url, data = asyncio.run(run())
    assert url is not None
    assert data == b""
    with urllib.request.urlopen(url) as response:
        assert response.read()[4:8] == b"ftyp"
