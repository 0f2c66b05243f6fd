"""The live sessions of a loaded bundle: they share batches in the thread that owns the model."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from s2v_ray.inference.live import LiveFrame, LiveSession, advance

LIVE_BATCH_FRAMES = 4
"""Largest number of frames of one session in a batch: small, so that no session waits long for another."""
Delivery = Sequence[LiveFrame] | Exception | None
"""What a session gives to its reader: frames, an error that ends it, or None after the last frame."""


class LiveStream:
    """A session between its connection, in the event loop, and the thread of the model.

    Args:
        session: only the thread of the model may use it, except for its counters.
        deliver: called in the event loop.
    """

    def __init__(self, session: LiveSession, deliver: Callable[[Delivery], None]) -> None:
        self.session = session
        self._deliver, self._loop = deliver, asyncio.get_running_loop()
        self.inbox: deque[Callable[[], None]] = deque()
        self.ended = False

    @property
    def has_work(self) -> bool:
        """Whether the thread of the model can do something for this session."""
        return not self.ended and (bool(self.inbox) or self.session.pending > 0)

    def deliver(self, item: Delivery) -> None:
        """Gives something to the reader, from the thread of the model."""
        self.ended = self.ended or item is None or isinstance(item, Exception)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, item)


class LivePool:
    """All live sessions of one bundle.

    Args:
        changed: notified when there is work; guards the sessions and their inboxes.

    Attributes:
        frames: number of generated frames.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.frames = 0
        self._changed = changed
        self._streams: list[LiveStream] = []

    @property
    def ready(self) -> bool:
        """Whether ``advance`` has work."""
        return any(stream.has_work for stream in self._streams)

    @property
    def active(self) -> int:
        """Number of sessions."""
        return len(self._streams)

    def add(self, stream: LiveStream) -> None:
        """Adds a session."""
        with self._changed:
            self._streams.append(stream)

    def remove(self, stream: LiveStream) -> None:
        """Removes a session; what it still has to do is dropped."""
        with self._changed:
            if stream in self._streams:
                self._streams.remove(stream)
            self._changed.notify()

    def push(self, stream: LiveStream, speech: np.ndarray, *, lost: bool = False) -> None:
        """Appends speech to a session, as ``LiveSession.push``."""
        self._call(stream, lambda: stream.session.push(speech, lost=lost))

    def finish(self, stream: LiveStream) -> None:
        """Ends the speech of a session."""
        self._call(stream, stream.session.finish)

    def _call(self, stream: LiveStream, work: Callable[[], None]) -> None:
        with self._changed:
            stream.inbox.append(work)
            self._changed.notify()

    def advance(self) -> None:
        """Does one round of work, in the thread of the model. An error ends the sessions that took part."""
        with self._changed:
            streams = [stream for stream in self._streams if stream.has_work]
            arrived = [(stream, list(stream.inbox)) for stream in streams]
            for stream in streams:
                stream.inbox.clear()
        for stream, calls in arrived:
            self._deliver_errors([stream], partial(_call_all, calls))
        if batch := [stream for stream in streams if not stream.ended and stream.session.pending]:
            self._deliver_errors(batch, partial(self._generate, batch))
        for stream in streams:
            if not stream.ended and stream.session.finished and not stream.session.pending:
                stream.deliver(None)

    def _generate(self, batch: list[LiveStream]) -> None:
        made = advance([stream.session for stream in batch], LIVE_BATCH_FRAMES)
        for stream, frames in zip(batch, made, strict=True):
            self.frames += len(frames)
            stream.deliver(frames)

    def _deliver_errors(self, streams: Sequence[LiveStream], work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:
            for stream in streams:
                stream.deliver(error)


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
