from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from s2v_ray.serving.concurrency import ConcurrencyLimit, run_in_thread
from s2v_ray.serving.errors import ApiError


def test_a_limit_refuses_and_releases() -> None:
    limit = ConcurrencyLimit(1, "busy", "try again", retry_after=2)
    with limit.slot():
        assert limit.active == 1
        with pytest.raises(ApiError, match="try again") as caught, limit.slot():
            pass
        assert caught.value.headers == {"Retry-After": "2"}
    assert limit.active == 0
    with pytest.raises(KeyError), limit.slot():
        raise KeyError
    assert limit.active == 0


def test_results_errors_and_context_are_passed() -> None:
    variable = contextvars.ContextVar("variable", default=0)

    async def run() -> None:
        variable.set(3)
        assert await run_in_thread(lambda: variable.get() + 1) == 4
        assert await run_in_thread(int, "ff", base=16) == 255
        assert await run_in_thread(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await run_in_thread(lambda: 1 / 0)

    asyncio.run(run())


@pytest.mark.parametrize("fails", [False, True])
def test_cancellation_waits_for_the_thread(fails: bool) -> None:
    """What the thread uses may be closed as soon as the error is raised, even after several cancellations."""
    finished = threading.Event()

    def work() -> None:
        time.sleep(0.3)
        finished.set()
        if fails:
            raise ValueError("lost")

    async def run() -> None:
        task = asyncio.create_task(run_in_thread(work))
        for _ in range(3):
            await asyncio.sleep(0.05)
            task.cancel()
        assert not finished.is_set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert finished.is_set()

    asyncio.run(run())


def test_the_end_of_the_loop_waits_for_the_thread() -> None:
    """``asyncio.run`` cancels all tasks that are left."""
    finished = threading.Event()
    order: list[str] = []

    def work() -> None:
        time.sleep(0.3)
        finished.set()

    async def use() -> None:
        try:
            await run_in_thread(work)
        finally:
            order.append("closed after" if finished.is_set() else "closed before")

    async def run() -> None:
        order.append("started")
        background.add(asyncio.create_task(use()))
        await asyncio.sleep(0.05)

    background: set[asyncio.Task[None]] = set()
    asyncio.run(run())
    assert order == ["started", "closed after"]


def test_a_timeout_is_raised_after_the_thread() -> None:
    finished = threading.Event()

    def work() -> None:
        time.sleep(0.3)
        finished.set()

    async def run() -> None:
        async with asyncio.timeout(0.05):
            await run_in_thread(work)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    assert finished.is_set()
