"""Generates the videos of many requests in shared batches, in one thread that owns the model."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import numpy as np
import torch

from s2v_ray.inference.predictor import VIDEO_CHUNK_FRAMES, Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.inference.state import GenerationState
from s2v_ray.serving.live_pool import LivePool

T = TypeVar("T")
MIN_FRAMES = 4
"""Smallest number of frames of a request in one batch. With fewer, the overhead exceeds what a shared batch saves."""
LIVE_SHARE = 4
"""Batches of videos are smaller by this factor while there are live sessions, whose frames wait for them."""
MAX_UNREAD_PARTS = 3
"""Number of parts that are generated ahead of a slow reader. Its request then waits, which bounds the memory."""


class Batcher:
    """Generates for any number of requests.

    Each round encodes one chunk of speech of one new request, and then generates the next frames of as many requests as
    fit into a batch, in turn. Live sessions have a batch of their own before that. A request gets the frames that it
    would get alone, whatever is in the batch with it.

    Args:
        predictor: the bundle. Only the thread of the batcher may use it, except for its attributes.
        batch_frames: number of frames of one batch, over all requests.
        part_frames: largest number of frames of one request in a batch.
        threads: number of compute threads, or None for torch's setting.

    Attributes:
        batches: number of batches generated so far.
        frames: number of frames generated so far.
        live: the live sessions.
    """

    def __init__(
        self, predictor: Predictor, batch_frames: int, part_frames: int = VIDEO_CHUNK_FRAMES, threads: int | None = None
    ) -> None:
        self.predictor = predictor
        self.batches = self.frames = 0
        self._batch_frames, self._part_frames, self._threads = batch_frames, part_frames, threads
        self._changed = threading.Condition()
        self._requests: deque[_QueuedRequest] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._closed = False
        self.live = LivePool(self._changed)
        self._thread = threading.Thread(target=self._work, name="generate", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that are not finished."""
        return len(self._requests)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[np.ndarray, None]:
        """Yields chunks of frames as ``Predictor.generate``. When it is closed early, the rest is not generated.

        Raises:
            ValueError: the request cannot be used. The call itself raises it.
        """
        return self._parts(_QueuedRequest(self.predictor.begin(request), asyncio.get_running_loop()))

    async def run(self, work: Callable[[], T]) -> T:
        """Runs a function in the thread that owns the model, and returns its result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def resolve(value: T) -> None:
            if not future.done():  # the caller may have been cancelled
                future.set_result(value)

        def fail(error: Exception) -> None:
            if not future.done():
                future.set_exception(error)

        def call() -> None:
            try:
                value = work()
            except Exception as error:
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(resolve, value)

        with self._changed:
            self._calls.append(call)
            self._changed.notify()
        return await future

    def close(self, timeout: float = 0.0) -> None:
        """Ends the thread when all requests are finished; waits at most ``timeout`` seconds for it."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)

    async def _parts(self, queued: _QueuedRequest) -> AsyncGenerator[np.ndarray, None]:
        with self._changed:
            self._requests.appendleft(queued)  # the newest request has waited longest for its first frame
            self._changed.notify()
        try:
            while (part := await queued.parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                with self._changed:
                    queued.unread -= 1
                    self._changed.notify()
                yield part
        finally:
            with self._changed:
                queued.finished = True
                self._changed.notify()

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                self._requests = deque(r for r in self._requests if not r.finished)
                call = self._calls.popleft() if self._calls else None
                if not call and self._closed and self._idle:
                    return
                new = next((r for r in self._requests if not r.state.ready), None)
                live = self.live.ready
            if call:
                call()
            if live:
                self.live.advance()
            if new:
                self._deliver_errors([new], self._encode)
            if batch := self._next_batch():
                self._deliver_errors(batch, self._generate)

    @property
    def _idle(self) -> bool:
        return not self._requests and not self.live.active

    def _has_work(self) -> bool:
        if self._calls or self.live.ready or (self._closed and self._idle):
            return True
        return any(r.finished or not r.state.ready or r.can_generate for r in self._requests)

    def _next_batch(self) -> list[_QueuedRequest]:
        """Requests of the next batch; they move to the end of the queue."""
        with self._changed:
            batch = [r for r in self._requests if r.can_generate][: max(1, self._frames_of_batch // MIN_FRAMES)]
            for queued in batch:
                self._requests.remove(queued)
                self._requests.append(queued)
        return batch

    @property
    def _frames_of_batch(self) -> int:
        return self._batch_frames // LIVE_SHARE if self.live.active else self._batch_frames

    def _encode(self, requests: list[_QueuedRequest]) -> None:
        self.predictor.encode_next_chunk(requests[0].state)

    def _generate(self, batch: list[_QueuedRequest]) -> None:
        frames = min(self._part_frames, max(MIN_FRAMES, self._frames_of_batch // len(batch)))
        parts = self.predictor.generate_next([queued.state for queued in batch], frames)
        self.batches += 1
        self.frames += sum(map(len, parts))
        for queued, part in zip(batch, parts, strict=True):
            complete = not queued.state.remaining_frames
            with self._changed:
                queued.unread += 1
                queued.finished = queued.finished or complete
            queued.put(part)
            if complete:
                queued.put(None)

    def _deliver_errors(self, requests: list[_QueuedRequest], work: Callable[[list[_QueuedRequest]], None]) -> None:
        """Runs ``work``. An error ends the requests that took part, and the thread continues."""
        try:
            work(requests)
        except Exception as error:
            with self._changed:
                for queued in requests:
                    queued.finished = True
                    queued.put(error)


class _QueuedRequest:
    """A request in the queue of a batcher.

    Attributes:
        state: state of the generation.
        parts: chunks of frames for the reader, then None or the error.
        unread: number of chunks that the reader has not taken yet.
        finished: whether nothing more is to be generated: the frames are complete, or the reader has left.
    """

    def __init__(self, state: GenerationState, loop: asyncio.AbstractEventLoop) -> None:
        self.state, self._loop = state, loop
        self.parts: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        self.unread = 0
        self.finished = False

    @property
    def can_generate(self) -> bool:
        """Whether frames of this request can be in the next batch."""
        return not self.finished and self.state.ready and self.unread < MAX_UNREAD_PARTS

    def put(self, part: np.ndarray | Exception | None) -> None:
        """Gives a chunk to the reader, from the thread of the batcher."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.parts.put_nowait, part)
