"""Videos that are asked for now and fetched later. All that a job is lies at a URI, so that any replica can tell of it and finish what another began.

    JOBS/<id>/order.json     what was asked for; never changes
    JOBS/<id>/speech.s16     the decoded speech, 16-bit little-endian at 16 kHz
    JOBS/<id>/state.json     queued, running, done, failed or cancelled; progress; which replica has it, and when that one last said so
    JOBS/<id>/cancel         there if somebody wants it to end
    JOBS/<id>/video.mp4      there when it is done

A replica that falls silent loses its jobs to the others after ``LEASE_SECONDS``. Two that take the same one do work twice and write the same video.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from s2v_ray import storage
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.service import Order, Service, tensor_of
from s2v_ray.serving.settings import ServeSettings
from s2v_ray.storage import ArtifactError

LEASE_SECONDS = 60.0
"""A job whose replica has not been heard of for so long is taken over."""
BEAT_SECONDS = 5.0
"""How often a replica says that it is at work on a job, and how far."""
SWEEP_SECONDS = 30.0
"""How often a replica looks for jobs that are expired or left behind."""
URL_SECONDS = 3600
"""A presigned address is good for so long."""

OPEN = ("queued", "running")
_ID = re.compile(r"[0-9a-f]{32}")
log = logging.getLogger(__name__)


class Jobs:
    """The jobs of an endpoint, as one replica sees them.

    Args:
        service: draws.
        uri: folder of all jobs, the same for all replicas.
    """

    def __init__(
        self, service: Service, uri: str, settings: ServeSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self.service, self.uri, self.settings, self.clock = service, uri, settings, clock
        self.owner = secrets.token_hex(8)
        self.mine: dict[str, dict[str, Any]] = {}  # states of the jobs that this replica holds
        self._saving = asyncio.Lock()
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._drawing: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Begins to work on jobs, first of all on those that were left behind."""
        self._tasks = [asyncio.create_task(loop()) for loop in (self._work, self._beat, self._sweep)]

    async def stop(self) -> None:
        """Lets go of all jobs: another replica takes them over, or this one when it starts again."""
        for task in [*self._tasks, *self._drawing.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._drawing.values(), return_exceptions=True)
        for state in self.mine.values():
            given = state | {"state": "queued", "progress": 0.0, "updated": 0.0}
            await asyncio.to_thread(storage.write_json, self._at(state["id"], "state.json"), given)

    async def submit(self, order: Order) -> dict[str, Any]:
        """Takes a job on; returns its state.

        Raises:
            ApiError: too_many_jobs.
        """
        if len(self.mine) >= self.settings.limits.jobs:
            raise ApiError(
                "too_many_jobs",
                f"{self.settings.limits.jobs} jobs wait or run already: try again later",
                retry_after=30,
            )
        job = secrets.token_hex(16)
        now = self.clock()
        state = {
            "id": job,
            "state": "queued",
            "progress": 0.0,
            "frames": order.frames,
            "created": now,
            "updated": now,
            "error": None,
            "owner": self.owner,
        }
        state["expires"] = now + 3600 * self.settings.job_hours
        self.mine[job] = state
        try:
            await asyncio.to_thread(self._write_order, job, order)
            await self._save(state)
        except BaseException:
            del self.mine[job]
            raise
        self._queue.put_nowait(job)
        return self._shown(state)

    async def state(self, job: str) -> dict[str, Any]:
        """id, state, progress in [0, 1], frames, created, updated and expires (seconds since 1970), error, and result: where the video is.

        Raises:
            ApiError: unknown_job.
        """
        state = self.mine.get(job) or await self._load(job)
        shown = self._shown(state)
        if state["state"] == "done":
            url = await asyncio.to_thread(storage.signed_url, self._at(job, "video.mp4"), URL_SECONDS)
            shown["result"] = url or f"/v1/jobs/{job}/video"
        return shown

    async def video(self, job: str) -> tuple[str | None, bytes]:
        """A presigned address, or None and the MP4 itself.

        Raises:
            ApiError: unknown_job, job_not_done.
        """
        state = self.mine.get(job) or await self._load(job)
        if state["state"] != "done":
            outlook = "ask again later" if state["state"] in OPEN else "it will have no video"
            raise ApiError("job_not_done", f"the job is {state['state']}: {outlook}", retry_after=2)
        url = await asyncio.to_thread(storage.signed_url, self._at(job, "video.mp4"), URL_SECONDS)
        return (url, b"") if url else (None, await asyncio.to_thread(storage.read_bytes, self._at(job, "video.mp4")))

    async def cancel(self, job: str) -> dict[str, Any]:
        """Ends a job, or removes the video of one that is done; returns its last state.

        Raises:
            ApiError: unknown_job.
        """
        state = self.mine.get(job) or await self._load(job)
        if state["state"] not in OPEN:
            await asyncio.to_thread(storage.remove, self._at(job))
            return self._shown(state)
        await asyncio.to_thread(storage.write_bytes, self._at(job, "cancel"), b"")
        if job in self.mine:
            await self._end(state, "cancelled")
        return self._shown(state)

    async def _end(self, state: dict[str, Any], how: str, error: dict[str, str] | None = None) -> None:
        state.update(state=how, error=error)
        self.mine.pop(state["id"], None)
        if task := self._drawing.pop(state["id"], None):
            task.cancel()
        await self._save(state)

    async def _work(self) -> None:
        """One job after the other; they share the model with everybody else's requests."""
        while True:
            job = await self._queue.get()
            if job not in self.mine:
                continue  # cancelled while it waited
            task = self._drawing[job] = asyncio.create_task(self._draw(self.mine[job]))
            await asyncio.wait([task])
            self._drawing.pop(job, None)

    async def _draw(self, state: dict[str, Any]) -> None:
        job = state["id"]
        try:
            state["state"] = "running"
            await self._save(state)
            order = await asyncio.to_thread(self._read_order, job)
            with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
                path = Path(folder) / "made.mp4"
                await self.service.write(order, path, lambda done: state.update(progress=round(done / order.frames, 3)))
                await asyncio.to_thread(lambda: storage.write_bytes(self._at(job, "video.mp4"), path.read_bytes()))
            state["progress"] = 1.0
            self._drawing.pop(job, None)  # or ending the job would cancel what ends it
            await self._end(state, "done")
        except asyncio.CancelledError:
            raise
        except Exception as e:  # whatever it is, it is the job's end and not the replica's
            log.exception("job %s failed", job)
            self._drawing.pop(job, None)
            known = isinstance(e, (ValueError, ApiError))
            message = storage.scrub(str(getattr(e, "detail", e))) if known else "a fault of the endpoint"
            await self._end(state, "failed", {"code": getattr(e, "code", "internal"), "message": message})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            for state in list(self.mine.values()):
                with contextlib.suppress(OSError):
                    if await asyncio.to_thread(storage.exists, self._at(state["id"], "cancel")):
                        await self._end(state, "cancelled")
                    elif state["id"] in self.mine:
                        await self._save(state)

    async def _sweep(self) -> None:
        while True:
            try:
                await self.sweep()
            except (OSError, ArtifactError) as e:
                log.warning("cannot look through the jobs: %s", e)
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Removes jobs that are expired, and takes over those whose replica has fallen silent."""
        now = self.clock()
        for uri in await asyncio.to_thread(storage.list_files, self.uri, "/state.json"):
            job = uri.split("/")[-2]
            if job in self.mine or not _ID.fullmatch(job):
                continue
            try:
                state = await self._load(job)
            except ApiError:
                await asyncio.to_thread(storage.remove, self._at(job))
                continue
            if (
                state["state"] in OPEN
                and now - state["updated"] > LEASE_SECONDS
                and len(self.mine) < self.settings.limits.jobs
            ):
                log.warning("taking over job %s of replica %s", job, state["owner"])
                self.mine[job] = state | {"owner": self.owner, "state": "queued", "progress": 0.0}
                await self._save(self.mine[job])
                self._queue.put_nowait(job)

    async def _save(self, state: dict[str, Any]) -> None:
        async with self._saving:  # in turn: an older state must not arrive after a newer one
            state["updated"] = self.clock()
            await asyncio.to_thread(storage.write_json, self._at(state["id"], "state.json"), dict(state))

    async def _load(self, job: str) -> dict[str, Any]:
        """State of another replica's job; one that is expired or was never there is unknown."""
        try:
            if not _ID.fullmatch(job):  # a caller's word never becomes a path
                raise FileNotFoundError
            state: dict[str, Any] = await asyncio.to_thread(storage.read_json, self._at(job, "state.json"))
            if state["expires"] < self.clock():
                raise FileNotFoundError
        except (FileNotFoundError, json.JSONDecodeError):
            raise ApiError(
                "unknown_job", f"there is no such job; jobs are kept for {self.settings.job_hours:g} hours"
            ) from None
        return state

    def _write_order(self, job: str, order: Order) -> None:
        sound = (order.speech * 32768).round().clip(-32768, 32767).astype("<i2")
        storage.write_bytes(self._at(job, "speech.s16"), sound.tobytes())
        if order.still is not None:
            storage.write_bytes(self._at(job, "still.rgb"), order.still.tobytes())
        emotion = order.emotion if isinstance(order.emotion, str) or order.emotion is None else order.emotion.tolist()
        kept = {"model": order.model, "emotion": emotion, "seed": order.seed, "size": order.size}
        kept |= {
            "identity": None if order.identity is None else order.identity.tolist(),
            "still": None if order.still is None else len(order.still),
        }
        storage.write_json(self._at(job, "order.json"), kept)

    def _read_order(self, job: str) -> Order:
        kept = storage.read_json(self._at(job, "order.json"))
        if kept["model"] not in self.settings.uris():
            raise ApiError("unknown_model", f"the bundle {kept['model']} is not served any more")
        sound = np.frombuffer(storage.read_bytes(self._at(job, "speech.s16")), "<i2").astype(np.float32)
        sound /= 32768
        side = kept["still"]
        still = (
            None
            if side is None
            else np.frombuffer(storage.read_bytes(self._at(job, "still.rgb")), np.uint8).reshape(side, side, 3)
        )
        emotion = kept["emotion"] if isinstance(kept["emotion"], str) else tensor_of(kept["emotion"])
        return Order(sound, kept["model"], tensor_of(kept["identity"]), emotion, still, kept["seed"], kept["size"])

    def _at(self, job: str, *name: str) -> str:
        return storage.join(self.uri, job, *name)

    def _shown(self, state: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in state.items() if k != "owner"} | {"result": None}
