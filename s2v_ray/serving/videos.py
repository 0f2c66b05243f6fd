"""Videos that are requested now and fetched later, in the shape of OpenAI's video API.

A replica that stops writing the state of its videos loses them to the other replicas after ``LEASE_SECONDS``. If two
replicas hold the same video, both generate and write the same frames.
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
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from s2v_ray import storage
from s2v_ray.logs import identified
from s2v_ray.media.timing import FPS
from s2v_ray.serving.concurrency import run_in_thread
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.service import Service, VideoRequest
from s2v_ray.serving.settings import ServeSettings
from s2v_ray.serving.video_store import HOUR_SECONDS, VideoError, VideoState, VideoStatus, VideoStore, make_id
from s2v_ray.storage import ArtifactError

LEASE_SECONDS = 60.0
"""Seconds without a write after which a video is taken over from its replica."""
HEARTBEAT_SECONDS = 5.0
"""Seconds between two writes of the states of the videos that a replica holds."""
SWEEP_SECONDS = 30.0
"""Seconds between two searches for videos that have expired, were deleted, or that no replica holds."""

logger = logging.getLogger(__name__)


class Video(BaseModel):
    """A video as clients get it: the fields of OpenAI's video object. Times are whole seconds since 1970."""

    id: str
    object: Literal["video"] = "video"
    status: VideoStatus
    progress: int = Field(ge=0, le=100, description="Share of the frames that are generated, in percent.")
    model: str = Field(description="Name of the bundle.")
    prompt: str
    seconds: str = Field(description="Duration of the video.")
    size: str = Field(description="Width and height, such as 96x96.")
    created_at: int
    completed_at: int | None
    expires_at: int = Field(description="Time after which the video is removed.")
    error: VideoError | None = Field(description="Why the video failed.")


class VideoList(BaseModel):
    """A page of the list of videos."""

    object: Literal["list"] = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None = Field(description="The next page begins after this video.")
    has_more: bool


class DeletedVideo(BaseModel):
    """The confirmation that a video is deleted."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class Videos:
    """The videos of an endpoint, as one replica handles them.

    Args:
        service: generates the frames.
        uri: folder of all videos, the same for all replicas.
        settings: settings of the endpoint.
        clock: returns seconds since 1970.

    Attributes:
        held: id -> state of the videos that this replica is to generate.
    """

    def __init__(
        self, service: Service, uri: str, settings: ServeSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self.service, self.settings, self.clock = service, settings, clock
        self.store = VideoStore(uri)
        self.held: dict[str, VideoState] = {}
        self._owner = secrets.token_hex(8)
        self._saving = asyncio.Lock()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._loops: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Starts to generate, first the videos that no replica holds."""
        self._loops = [asyncio.create_task(loop()) for loop in (self._process, self._heartbeat, self._sweep_forever)]

    async def stop(self) -> None:
        """Releases all videos. Another replica takes them over, or this one after a restart."""
        tasks = [*self._loops, *self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in self.held.values():
            released = replace(state, status="queued", progress=0, updated_at=0.0)
            await run_in_thread(self.store.write_state, released)

    async def create(self, request: VideoRequest, prompt: str = "") -> Video:
        """Accepts a request.

        Args:
            request: the request.
            prompt: text that is shown with the video.

        Raises:
            ApiError: too_many_videos.
        """
        if len(self.held) >= self.settings.limits.videos:
            raise ApiError(
                "too_many_videos",
                f"{self.settings.limits.videos} videos are queued or in progress already: try again later",
                retry_after=30,
            )
        now = self.clock()
        state = VideoState(
            id=make_id(now),
            status="queued",
            progress=0,
            model=request.model,
            prompt=prompt,
            frames=request.frames,
            size=request.size,
            created_at=now,
            updated_at=now,
            completed_at=None,
            expires_at=now + 3600 * self.settings.video_hours,
            error=None,
            owner=self._owner,
        )
        self.held[state.id] = state
        try:
            await run_in_thread(self.store.write_request, state.id, request)
            await self._save(state)
            await run_in_thread(self.store.mark_open, state.id)
        except BaseException:
            del self.held[state.id]
            raise
        self._queue.put_nowait(state.id)
        return _shown(state)

    async def get(self, video: str) -> Video:
        """The state of a video.

        Raises:
            ApiError: unknown_video.
        """
        return _shown(await self._state(video))

    async def list_page(self, after: str | None, limit: int, order: Literal["asc", "desc"]) -> VideoList:
        """A page of the list of videos.

        Args:
            after: id of the last video of the page before, or None for the first page.
            limit: largest number of videos of the page.
            order: "asc" begins with the oldest video, "desc" with the newest one.
        """
        ids = await run_in_thread(self.store.page, after, limit + 1, newest_first=order == "desc")
        found = await asyncio.gather(*(self._find(video) for video in ids[:limit]))
        data = [_shown(state) for state in found if state]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last, has_more=len(ids) > limit)

    async def content(self, video: str, *, redirect: bool = True) -> tuple[str | None, bytes]:
        """The content of a video: a presigned URL and no bytes, or None and the MP4; without ``redirect`` the MP4.

        Raises:
            ApiError: unknown_video, video_not_completed.
        """
        state = await self._state(video)
        if state.status != "completed":
            outlook = "ask again later" if state.open else "it has no content"
            raise ApiError("video_not_completed", f"the video is {state.status}: {outlook}", retry_after=2)
        url = await run_in_thread(self.store.content_url, video) if redirect else None
        return (url, b"") if url else (None, await run_in_thread(self.store.read_content, video))

    async def delete(self, video: str) -> DeletedVideo:
        """Deletes a video. One that is queued or in progress is not generated any further.

        Raises:
            ApiError: unknown_video.
        """
        state = await self._state(video)
        await run_in_thread(self.store.mark_deleted, video)
        if video in self.held or not state.open:
            await self._remove(video)
        return DeletedVideo(id=video)

    async def sweep(self) -> None:
        """Removes expired and deleted videos, and takes over those whose replica no longer writes.

        The files of an expired video are removed when the last one of its hour has expired.
        """
        index = await run_in_thread(self.store.read_index)
        for video in sorted(index.open | index.deleted):
            if video not in self.held:
                await self._clear(video, deleted=video in index.deleted)
        for hour in index.hours:
            if HOUR_SECONDS * (hour + 1 + self.settings.video_hours) > self.clock():
                break
            videos = await run_in_thread(self.store.videos_of, hour)
            for video in videos:
                if video not in self.held and await self._find(video) is None:
                    await self._remove(video)
            if not videos:
                await run_in_thread(self.store.remove_hour, hour)

    async def _clear(self, video: str, *, deleted: bool) -> None:
        """Removes a marked video if it is deleted or expired, or takes it over if its replica no longer writes."""
        state = await self._find(video)
        lost = state and state.open and self.clock() - state.updated_at > LEASE_SECONDS
        if lost and not deleted:  # it may have been deleted since the marks were read
            deleted = await run_in_thread(self.store.is_deleted, video)
        if not state or (deleted and (lost or not state.open)):
            await self._remove(video)
        elif not state.open:
            await run_in_thread(self.store.unmark_open, video)  # the replica stopped before it did so
        elif lost and len(self.held) < self.settings.limits.videos:
            logger.warning("taking over video %s of replica %s", video, state.owner)
            self.held[video] = replace(state, owner=self._owner, status="queued", progress=0)
            await self._save(self.held[video])
            self._queue.put_nowait(video)

    async def _state(self, video: str) -> VideoState:
        """State of a video that is not deleted.

        Raises:
            ApiError: unknown_video.
        """
        state = await self._find(video)
        if state is None or await run_in_thread(self.store.is_deleted, video):
            hours = self.settings.video_hours
            raise ApiError("unknown_video", f"there is no such video; videos are removed after {hours:g} hours")
        return state

    async def _find(self, video: str) -> VideoState | None:
        """State of a video, or None if there is no such video or it has expired."""
        if state := self.held.get(video):
            return state
        try:
            state = await run_in_thread(self.store.read_state, video)
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        return state if state.expires_at >= self.clock() else None

    async def _save(self, state: VideoState) -> None:
        """Writes the state of a held video, which is no longer held once a final state is written."""
        async with self._saving:  # one after the other: an older state must not overwrite a newer one
            if state.id in self.held:
                state.updated_at = self.clock()
                await run_in_thread(self.store.write_state, replace(state))
                if not state.open:
                    del self.held[state.id]

    async def _remove(self, video: str) -> None:
        """Ends the work on a video and removes its files."""
        self.held.pop(video, None)
        if task := self._running.pop(video, None):
            task.cancel()
            await asyncio.wait([task])
        async with self._saving:
            await run_in_thread(self.store.remove, video)

    async def _process(self) -> None:
        """Generates one video after the other; they share the model with all requests."""
        while True:
            video = await self._queue.get()
            if video not in self.held:
                continue  # deleted while it was queued
            with identified(video=video):
                task = self._running[video] = asyncio.create_task(self._run(self.held[video]))
            await asyncio.wait([task])
            self._running.pop(video, None)

    async def _run(self, state: VideoState) -> None:
        try:
            state.status = "in_progress"
            await self._save(state)
            await self._generate(state)
            state.status, state.progress, state.completed_at = "completed", 100, self.clock()
        except Exception as error:  # any error ends the video, and the replica continues
            logger.exception("video %s failed", state.id)
            state.status, state.error = "failed", _describe(error)
        await self._save(state)

    async def _generate(self, state: VideoState) -> None:
        request = await run_in_thread(self.store.read_request, state.id)
        if request.model not in self.settings.uris():
            raise ApiError("unknown_model", f"the bundle {request.model} is no longer served: create the video again")

        def on_progress(frames: int) -> None:
            state.progress = 100 * frames // request.frames

        with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
            path = Path(folder) / "video.mp4"
            await self.service.write(request, path, on_progress)
            await run_in_thread(self.store.write_content, state.id, path)

    async def _heartbeat(self) -> None:
        """Writes the states of all held videos, and removes those that another replica marked as deleted."""
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for state in list(self.held.values()):
                with suppress(OSError):
                    if await run_in_thread(self.store.is_deleted, state.id):
                        await self._remove(state.id)
                    else:
                        await self._save(state)

    async def _sweep_forever(self) -> None:
        while True:
            try:
                await self.sweep()
            except (OSError, ArtifactError) as error:
                logger.warning("cannot search the folder of videos, will try again: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)


def _shown(state: VideoState) -> Video:
    return Video(
        id=state.id,
        status=state.status,
        progress=state.progress,
        model=state.model,
        prompt=state.prompt,
        seconds=f"{state.frames / FPS:g}",
        size=f"{state.size}x{state.size}",
        created_at=int(state.created_at),
        completed_at=None if state.completed_at is None else int(state.completed_at),
        expires_at=int(state.expires_at),
        error=state.error,
    )


def _describe(error: Exception) -> VideoError:
    """Code and message for clients; the messages of unexpected errors are only logged."""
    if isinstance(error, ApiError):
        return VideoError(code=error.code, message=storage.scrub(error.detail))
    if isinstance(error, ValueError):
        return VideoError(code="internal", message=storage.scrub(str(error)))
    return VideoError(code="internal", message="an internal error of the endpoint")
