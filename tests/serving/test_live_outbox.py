"""A slow client skips frames: at most a window is unacknowledged, and few frames wait."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from s2v_ray.inference.live import LiveFrame
from s2v_ray.serving import live_outbox
from s2v_ray.serving.live_outbox import QUEUED_FRAMES, WINDOW_FRAMES, Outbox


def frames(first: int, count: int) -> list[LiveFrame]:
    return [LiveFrame(first + i, np.zeros((1, 1, 3), np.uint8)) for i in range(count)]


async def available(outbox: Outbox) -> list[Any]:
    """Messages that can be sent now: indices of frames, and events."""
    found = []
    async with aclosing(outbox.messages()) as messages:
        try:
            while True:
                async with asyncio.timeout(0.05):
                    message = await anext(messages)
                found.append(message.index if isinstance(message, LiveFrame) else message)
        except (TimeoutError, StopAsyncIteration):
            return found


def test_frames_beyond_the_window_are_skipped_oldest_first() -> None:
    async def run() -> None:
        outbox = Outbox()
        outbox.add_frames(frames(0, 10))
        assert await available(outbox) == list(range(10))
        outbox.add_frames(frames(10, 15))
        assert await available(outbox) == list(range(10, WINDOW_FRAMES))
        for i in range(25, 45):
            outbox.add_frames(frames(i, 1))
        assert await available(outbox) == []
        assert outbox.skipped == 20 - QUEUED_FRAMES
        outbox.acknowledge(9)
        assert await available(outbox) == [40, 41, 42, 43, 44]
        assert outbox.sent == 30

    asyncio.run(run())


def test_events_precede_frames_and_pass_a_full_window() -> None:
    async def run() -> None:
        outbox = Outbox()
        outbox.add_frames(frames(0, 2))
        outbox.add_event({"type": "codes"})
        assert await available(outbox) == [{"type": "codes"}, 0, 1]
        outbox.add_frames(frames(2, WINDOW_FRAMES))
        await available(outbox)
        outbox.add_event({"type": "statistics"})
        assert await available(outbox) == [{"type": "statistics"}]

    asyncio.run(run())


def test_the_end_waits_for_the_last_frames_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_outbox, "FLUSH_SECONDS", 0.02)

    async def run() -> tuple[int, int]:
        outbox = Outbox()
        outbox.add_frames(frames(0, WINDOW_FRAMES))
        assert len(await available(outbox)) == WINDOW_FRAMES
        outbox.add_frames(frames(WINDOW_FRAMES, 3))
        outbox.close()
        assert [message async for message in outbox.messages()] == []
        return outbox.sent, outbox.skipped

    assert asyncio.run(run()) == (WINDOW_FRAMES, 3)


def test_the_end_comes_when_the_last_frame_is_acknowledged() -> None:
    async def run() -> int:
        outbox = Outbox()
        outbox.add_frames(frames(0, 3))
        outbox.close()
        received = []
        async for message in outbox.messages():
            assert isinstance(message, LiveFrame)
            received.append(message.index)
            asyncio.get_running_loop().call_later(0.01, outbox.acknowledge, message.index)
        return len(received)

    assert asyncio.run(run()) == 3
