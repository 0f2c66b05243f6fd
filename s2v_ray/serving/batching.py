"""Speeches of many callers drawn together, by one thread that owns the model."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import numpy as np
import torch

from s2v_ray.inference.predictor import VIDEO_CHUNK_FRAMES, Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.inference.state import GenerationState

T = TypeVar("T")
FEWEST_FRAMES = 4
"""Frames that a request gets of one batch, at least: below that, handing them over costs more than drawing them together saves."""
AHEAD = 3
"""Parts drawn ahead of a caller who reads slowly. Then the caller's turn is passed over: nobody's memory grows."""


class Batcher:
    """Draws for any number of callers. Every round hears one chunk of one new speech, and draws the next frames of as many as fit a batch, in turn.

    A speech gets the frames it would get alone: what is drawn beside it, and in what portions, changes nothing.
    """

    def __init__(
        self, predictor: Predictor, batch_frames: int, part_frames: int = VIDEO_CHUNK_FRAMES, threads: int | None = None
    ) -> None:
        self.predictor = predictor
        self._batch_frames, self._part_frames, self._threads = batch_frames, part_frames, threads
        self._changed = threading.Condition()
        self._tickets: deque[_Ticket] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._closed = False
        self.batches = 0
        """Batches drawn so far."""
        self.frames = 0
        """Frames drawn so far."""
        self._thread = threading.Thread(target=self._work, name="draw", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Speeches that are not drawn to their end."""
        return len(self._tickets)

    def draw(self, request: GenerationRequest) -> AsyncIterator[np.ndarray]:
        """As ``Predictor.generate``, for ``async for``. Left early, the rest is not drawn.

        Raises:
            ValueError: an input that cannot be used; raised by the call itself.
        """
        return self._parts(_Ticket(self.predictor.begin(request), asyncio.get_running_loop()))

    async def run(self, work: Callable[[], T]) -> T:
        """Runs something else on the thread that owns the model."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def settle(value: T | None, error: Exception | None) -> None:
            if future.done():  # nobody waits any more
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)  # type: ignore[arg-type]  # T may itself be optional

        def call() -> None:
            value, error = None, None
            try:
                value = work()
            except Exception as e:
                error = e
            loop.call_soon_threadsafe(settle, value, error)

        with self._changed:
            self._calls.append(call)
            self._changed.notify()
        return await future

    def close(self) -> None:
        """Ends the thread after the speeches that are under way."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    async def _parts(self, ticket: _Ticket) -> AsyncIterator[np.ndarray]:
        with self._changed:
            self._tickets.appendleft(ticket)  # the newest is heard next: it has waited for its first frame
            self._changed.notify()
        try:
            while (part := await ticket.parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                with self._changed:
                    ticket.ahead -= 1
                    self._changed.notify()
                yield part
        finally:
            with self._changed:
                ticket.left = True
                self._changed.notify()

    def _work(self) -> None:
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._due() or (self._closed and not self._tickets))
                self._tickets = deque(t for t in self._tickets if not t.left)
                call = self._calls.popleft() if self._calls else None
                if not call and not self._tickets and self._closed:
                    return
                new = next((t for t in self._tickets if not t.drawing.ready), None)
            if call:
                call()
            if new:
                self._guarded([new], self._hear)
            with self._changed:
                batch = [t for t in self._tickets if t.drawable][: max(1, self._batch_frames // FEWEST_FRAMES)]
                for ticket in batch:  # to the end of the line
                    self._tickets.remove(ticket)
                    self._tickets.append(ticket)
            if batch:
                self._guarded(batch, self._draw)

    def _due(self) -> bool:
        return any(t.left or not t.drawing.ready or t.drawable for t in self._tickets)

    def _hear(self, tickets: list[_Ticket]) -> None:
        self.predictor.encode_next_chunk(tickets[0].drawing)

    def _draw(self, batch: list[_Ticket]) -> None:
        frames = min(self._part_frames, max(FEWEST_FRAMES, self._batch_frames // len(batch)))
        parts = self.predictor.generate_next([t.drawing for t in batch], frames)
        self.batches += 1
        self.frames += sum(map(len, parts))
        for ticket, part in zip(batch, parts, strict=True):
            with self._changed:
                ticket.ahead += 1
                ticket.left = ticket.left or not ticket.drawing.remaining_frames
            ticket.put(part)
            if not ticket.drawing.remaining_frames:
                ticket.put(None)

    def _guarded(self, tickets: list[_Ticket], work: Callable[[list[_Ticket]], None]) -> None:
        """What goes wrong in a batch is told to those in it, and the thread goes on."""
        try:
            work(tickets)
        except Exception as e:
            with self._changed:
                for ticket in tickets:
                    ticket.left = True
                    ticket.put(e)


class _Ticket:
    """A caller's place. ``parts`` holds frames, then None or the error; ``left``: nothing more is wanted or to come."""

    def __init__(self, drawing: GenerationState, loop: asyncio.AbstractEventLoop) -> None:
        self.drawing, self._loop = drawing, loop
        self.parts: asyncio.Queue[np.ndarray | Exception | None] = asyncio.Queue()
        self.ahead = 0
        self.left = False

    @property
    def drawable(self) -> bool:
        return not self.left and self.drawing.ready and self.ahead < AHEAD

    def put(self, part: np.ndarray | Exception | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.parts.put_nowait, part)
