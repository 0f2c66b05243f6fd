"""Jobs: videos that are requested now and fetched later.

A replica that stops writing the state of its jobs loses them to the other replicas after ``LEASE_SECONDS``. If two
replicas hold the same job, both generate and write the same video.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import BaseModel

from s2v_ray import storage
from s2v_ray.serving.concurrency import run_in_thread
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.job_store import JobError, JobPhase, JobState, JobStore
from s2v_ray.serving.service import Service, VideoRequest
from s2v_ray.serving.settings import ServeSettings
from s2v_ray.storage import ArtifactError

LEASE_SECONDS = 60.0
"""Seconds without a write after which a job is taken over from its replica."""
HEARTBEAT_SECONDS = 5.0
"""Seconds between two writes of the states of the jobs that a replica holds."""
SWEEP_SECONDS = 30.0
"""Seconds between two searches for jobs that have expired or that no replica holds."""

logger = logging.getLogger(__name__)


class ShownJob(BaseModel):
    """The state of a job as clients get it: ``job_store.JobState`` without its owner.

    ``result`` is the address of the video of a job that is done: a presigned URL, or a path of this API.
    """

    id: str
    state: JobPhase
    progress: float
    frames: int
    created: float
    updated: float
    error: JobError | None
    expires: float
    result: str | None = None


class Jobs:
    """The jobs of an endpoint, as one replica handles them.

    Args:
        service: generates the videos.
        uri: folder of all jobs, the same for all replicas.
        settings: settings of the endpoint.
        clock: returns seconds since 1970.

    Attributes:
        held: id -> state of the jobs that this replica holds.
    """

    def __init__(
        self, service: Service, uri: str, settings: ServeSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self.service, self.settings, self.clock = service, settings, clock
        self.store = JobStore(uri)
        self.held: dict[str, JobState] = {}
        self._owner = secrets.token_hex(8)
        self._saving = asyncio.Lock()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._loops: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Starts to process jobs, first those that no replica holds."""
        self._loops = [asyncio.create_task(loop()) for loop in (self._process, self._heartbeat, self._sweep_forever)]

    async def stop(self) -> None:
        """Releases all jobs. Another replica takes them over, or this one after a restart."""
        tasks = [*self._loops, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in self.held.values():
            released = replace(state, state="queued", progress=0.0, updated=0.0)
            await run_in_thread(self.store.write_state, released)

    async def submit(self, request: VideoRequest) -> ShownJob:
        """Accepts a job; returns its state.

        Raises:
            ApiError: too_many_jobs.
        """
        if len(self.held) >= self.settings.limits.jobs:
            raise ApiError(
                "too_many_jobs",
                f"{self.settings.limits.jobs} jobs wait or run already: try again later",
                retry_after=30,
            )
        now = self.clock()
        state = JobState(
            id=secrets.token_hex(16),
            state="queued",
            progress=0.0,
            frames=request.frames,
            created=now,
            updated=now,
            error=None,
            owner=self._owner,
            expires=now + 3600 * self.settings.job_hours,
        )
        self.held[state.id] = state
        try:
            await run_in_thread(self.store.write_request, state.id, request)
            await self._save(state)
        except BaseException:
            del self.held[state.id]
            raise
        self._queue.put_nowait(state.id)
        return _shown(state)

    async def get(self, job: str) -> ShownJob:
        """The state of a job.

        Raises:
            ApiError: unknown_job.
        """
        state = await self._state(job)
        result = None
        if state.state == "done":
            result = await run_in_thread(self.store.video_url, job) or f"/v1/jobs/{job}/video"
        return _shown(state, result)

    async def video(self, job: str) -> tuple[str | None, bytes]:
        """The video of a job: a presigned URL and no bytes, or None and the MP4.

        Raises:
            ApiError: unknown_job, job_not_done.
        """
        state = await self._state(job)
        if state.state != "done":
            outlook = "ask again later" if state.open else "it will have no video"
            raise ApiError("job_not_done", f"the job is {state.state}: {outlook}", retry_after=2)
        url = await run_in_thread(self.store.video_url, job)
        return (url, b"") if url else (None, await run_in_thread(self.store.read_video, job))

    async def cancel(self, job: str) -> ShownJob:
        """Cancels a job, or removes one that has ended; returns its last state.

        Raises:
            ApiError: unknown_job.
        """
        state = await self._state(job)
        if not state.open:
            await run_in_thread(self.store.remove, job)
            return _shown(state)
        await run_in_thread(self.store.request_cancellation, job)
        if job in self.held:
            await self._end(state, "cancelled")
        return _shown(state)

    async def sweep(self) -> None:
        """Removes jobs that have expired, and takes over those whose replica no longer writes."""
        now = self.clock()
        for job in await run_in_thread(self.store.list_jobs):
            if job in self.held:
                continue
            try:
                state = await self._load(job)
            except ApiError:
                await run_in_thread(self.store.remove, job)
                continue
            has_room = len(self.held) < self.settings.limits.jobs
            if state.open and now - state.updated > LEASE_SECONDS and has_room:
                logger.warning("taking over job %s of replica %s", job, state.owner)
                self.held[job] = replace(state, owner=self._owner, state="queued", progress=0.0)
                await self._save(self.held[job])
                self._queue.put_nowait(job)

    async def _state(self, job: str) -> JobState:
        return self.held.get(job) or await self._load(job)

    async def _load(self, job: str) -> JobState:
        """State of a job that another replica holds, or that has ended.

        Raises:
            ApiError: unknown_job, if there is no such job or it has expired.
        """
        try:
            state = await run_in_thread(self.store.read_state, job)
        except (FileNotFoundError, json.JSONDecodeError):
            state = None
        if state is None or state.expires < self.clock():
            hours = self.settings.job_hours
            raise ApiError("unknown_job", f"there is no such job; jobs are removed after {hours:g} hours")
        return state

    async def _save(self, state: JobState) -> None:
        async with self._saving:  # one after the other: an older state must not overwrite a newer one
            state.updated = self.clock()
            await run_in_thread(self.store.write_state, replace(state))

    async def _end(self, state: JobState, phase: JobPhase, error: JobError | None = None) -> None:
        state.state, state.error = phase, error
        self.held.pop(state.id, None)
        if task := self._running.pop(state.id, None):
            task.cancel()
        await self._save(state)

    async def _process(self) -> None:
        """Runs one job after the other; they share the model with all requests."""
        while True:
            job = await self._queue.get()
            if job not in self.held:
                continue  # cancelled while it waited
            task = self._running[job] = asyncio.create_task(self._run(self.held[job]))
            await asyncio.wait([task])
            self._running.pop(job, None)

    async def _run(self, state: JobState) -> None:
        try:
            state.state = "running"
            await self._save(state)
            await self._generate(state)
            state.progress = 1.0
            self._running.pop(state.id, None)  # so that ending the job does not cancel this task
            await self._end(state, "done")
        except asyncio.CancelledError:
            raise
        except Exception as error:  # any error ends the job, and the replica continues
            logger.exception("job %s failed", state.id)
            self._running.pop(state.id, None)
            await self._end(state, "failed", _describe(error))

    async def _generate(self, state: JobState) -> None:
        request = await run_in_thread(self.store.read_request, state.id)
        if request.model not in self.settings.uris():
            raise ApiError("unknown_model", f"the bundle {request.model} is no longer served: submit the job again")

        def on_progress(frames: int) -> None:
            state.progress = round(frames / request.frames, 3)

        with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
            path = Path(folder) / "video.mp4"
            await self.service.write(request, path, on_progress)
            await run_in_thread(self.store.write_video, state.id, path)

    async def _heartbeat(self) -> None:
        """Writes the states of all held jobs, and cancels those whose cancellation another replica requested."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for state in list(self.held.values()):
                with suppress(OSError):
                    if await run_in_thread(self.store.is_cancelled, state.id):
                        await self._end(state, "cancelled")
                    elif state.id in self.held:
                        await self._save(state)

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (OSError, ArtifactError) as error:
                logger.warning("cannot search the folder of jobs, will try again: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)


def _shown(state: JobState, result: str | None = None) -> ShownJob:
    values = asdict(state)
    del values["owner"]
    return ShownJob(**values, result=result)


def _describe(error: Exception) -> JobError:
    """Code and message for clients; the messages of unexpected errors are only logged."""
    if isinstance(error, ApiError):
        return JobError(code=error.code, message=storage.scrub(error.detail))
    if isinstance(error, ValueError):
        return JobError(code="internal", message=storage.scrub(str(error)))
    return JobError(code="internal", message="an internal error of the endpoint")
