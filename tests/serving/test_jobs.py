"""Jobs outlive the replica that took them, end when they should, and are forgotten when they are due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.jobs import LEASE_SECONDS, Jobs
from s2v_ray.serving.service import Bundles, Order, Service
from s2v_ray.serving.settings import parse_settings
from tests.helpers.sounds import speech


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def replica(places: dict[str, str], tmp_path: Path) -> Callable[..., Jobs]:
    clock = Clock()

    def make(uri: str = str(tmp_path / "jobs")) -> Jobs:
        settings = parse_settings({"bundle": places["bundle"], "jobs": uri, "job_hours": 1, "limits": {"jobs": 2}})
        return Jobs(Service(settings, Bundles(settings)), uri, settings, clock)

    return make


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def until(jobs: Jobs, job: str, *states: str) -> dict[str, Any]:
    for _ in range(600):
        state = await jobs.state(job)
        if state["state"] in states:
            return state
        await asyncio.sleep(0.05)
    raise AssertionError(f"the job is still {state['state']}")


def test_another_replica_finishes_what_one_left(replica: Callable[..., Jobs], tmp_path: Path) -> None:
    async def scene() -> None:
        first, second = replica(), replica()
        job = (await first.submit(Order(speech(1.0), "default", seed=4)))["id"]  # and then it dies, without a word
        await second.sweep()
        assert not second.mine  # not yet: the other may be at work
        second.clock.now += LEASE_SECONDS + 1  # type: ignore[attr-defined]
        await second.start()
        state = await until(second, job, "done")
        await second.stop()
        assert state["frames"] == 25 and state["result"] == f"/v1/jobs/{job}/video"
        url, data = (
            await first.video(job)
            if job not in first.mine
            else (None, storage.read_bytes(storage.join(first.uri, job, "video.mp4")))
        )
        assert url is None and len(data) > 1000

    run(scene())


def test_a_replica_that_goes_in_peace_hands_its_jobs_on_at_once(replica: Callable[..., Jobs]) -> None:
    async def scene() -> None:
        first, second = replica(), replica()
        job = (await first.submit(Order(speech(0.4), "default")))["id"]
        await first.stop()
        await second.start()
        await until(second, job, "done")
        await second.stop()

    run(scene())


def test_a_waiting_job_can_be_cancelled_from_anywhere(replica: Callable[..., Jobs]) -> None:
    async def scene() -> None:
        first, second = replica(), replica()
        job = (await first.submit(Order(speech(1.0), "default")))["id"]
        assert (await first.cancel(job))["state"] == "cancelled"
        assert (await second.state(job))["state"] == "cancelled"
        with pytest.raises(ApiError, match="it will have no video"):
            await second.video(job)

    run(scene())


def test_a_running_job_can_be_cancelled(replica: Callable[..., Jobs]) -> None:
    async def scene() -> None:
        jobs = replica()
        await jobs.start()
        job = (await jobs.submit(Order(speech(60.0), "default")))["id"]
        await until(jobs, job, "running")
        await jobs.cancel(job)
        assert (await jobs.state(job))["state"] == "cancelled"
        other = (await jobs.submit(Order(speech(0.2), "default")))["id"]
        await until(jobs, other, "done")  # the replica goes on
        await jobs.stop()

    run(scene())


def test_too_many_and_expired(replica: Callable[..., Jobs]) -> None:
    async def scene() -> None:
        jobs, other = replica(), replica()
        orders = [await jobs.submit(Order(speech(0.2), "default")) for _ in range(2)]
        with pytest.raises(ApiError) as refusal:
            await jobs.submit(Order(speech(0.2), "default"))
        assert (
            refusal.value.code == "too_many_jobs"
            and refusal.value.headers is not None
            and "Retry-After" in refusal.value.headers
        )
        other.clock.now += 3601  # type: ignore[attr-defined]
        await other.sweep()
        assert storage.list_files(other.uri) == []
        with pytest.raises(ApiError, match="no such job"):
            await other.state(orders[0]["id"])

    run(scene())


def test_a_job_that_fails_says_why(replica: Callable[..., Jobs], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        jobs = replica()
        monkeypatch.setattr(jobs.service, "write", _fail)
        await jobs.start()
        job = (await jobs.submit(Order(speech(0.2), "default")))["id"]
        state = await until(jobs, job, "failed")
        assert state["error"] == {"code": "internal", "message": "a fault of the endpoint"}
        await jobs.stop()

    run(scene())


async def _fail(*_: Any) -> None:
    raise RuntimeError("secret detail")


def test_jobs_on_s3_are_fetched_by_a_presigned_address(replica: Callable[..., Jobs], bucket: str) -> None:
    import urllib.request

    async def scene() -> tuple[str | None, bytes]:
        jobs = replica(f"{bucket}/jobs")
        await jobs.start()
        job = (await jobs.submit(Order(speech(0.2), "default")))["id"]
        state = await until(jobs, job, "done")
        found = await jobs.video(job)
        assert state["result"].startswith("http")
        await jobs.stop()
        return found

    url, data = run(scene())
    assert url is not None and data == b""
    with urllib.request.urlopen(url) as answer:
        assert answer.read()[4:8] == b"ftyp"
