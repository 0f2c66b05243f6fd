"""What a live session sends: events, and the newest frames. A slow client skips frames instead of queueing them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from s2v_ray.inference.live import LiveFrame

WINDOW_FRAMES = 25
"""Largest number of frames that are sent and not acknowledged. Buffers between server and client hold no more."""
QUEUED_FRAMES = 5
"""Largest number of frames that wait for the window; older ones are skipped."""
FLUSH_SECONDS = 5.0
"""Longest time that a session waits for acknowledgements of its last frames after the end of the audio."""


class Outbox:
    """The messages of one session to its client. All methods are called in the event loop.

    Attributes:
        sent: number of frames sent.
        skipped: number of frames that were not sent, because the client did not keep up.
    """

    def __init__(self) -> None:
        self.sent = self.skipped = 0
        self._events: deque[dict[str, object]] = deque()
        self._frames: deque[LiveFrame] = deque()
        self._unacknowledged: deque[int] = deque()
        self._changed = asyncio.Event()
        self._last = False

    def add_event(self, event: dict[str, object]) -> None:
        """Appends an event. Events precede frames."""
        self._events.append(event)
        self._changed.set()

    def add_frames(self, frames: Sequence[LiveFrame]) -> None:
        """Appends frames; the oldest are skipped if too many wait."""
        self._frames.extend(frames)
        self._drop(QUEUED_FRAMES if self._room <= 0 else max(QUEUED_FRAMES, self._room))
        self._changed.set()

    def acknowledge(self, frame: int) -> None:
        """Notes that the client received this frame and all before it."""
        while self._unacknowledged and self._unacknowledged[0] <= frame:
            self._unacknowledged.popleft()
        self._changed.set()

    def close(self) -> None:
        """Notes that nothing more is added. ``messages`` ends when everything is acknowledged."""
        self._last = True
        self._changed.set()

    async def messages(self) -> AsyncGenerator[dict[str, object] | LiveFrame, None]:
        """Yields events, and frames within the window, until the end."""
        while True:
            while self._events:
                yield self._events.popleft()
            while self._frames and self._room > 0 and not self._events:
                frame = self._frames.popleft()
                self._unacknowledged.append(frame.index)
                self.sent += 1
                yield frame
            if self._events:
                continue
            if self._last and not self._frames and not self._unacknowledged:
                return
            self._changed.clear()
            try:
                async with asyncio.timeout(FLUSH_SECONDS if self._last else None):
                    await self._changed.wait()
            except TimeoutError:
                self._drop(0)
                self._unacknowledged.clear()

    @property
    def _room(self) -> int:
        return WINDOW_FRAMES - len(self._unacknowledged)

    def _drop(self, limit: int) -> None:
        while len(self._frames) > limit:
            self._frames.popleft()
            self.skipped += 1
