"""Limits on concurrent work, and threads that cancellation waits for."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

from s2v_ray.serving.errors import ApiError

P = ParamSpec("P")
T = TypeVar("T")


class ConcurrencyLimit:
    """Admits a limited number of requests at a time and refuses further ones immediately.

    Args:
        limit: largest number of requests at a time.
        code: code of the error for refused requests.
        message: its message, in which ``{limit}`` stands for the limit.
        retry_after: its number of seconds after which to try again.

    Attributes:
        active: number of requests that are admitted now.
    """

    def __init__(self, limit: int, code: str, message: str, retry_after: int) -> None:
        self.limit, self.active = limit, 0
        self._code, self._message, self._retry_after = code, message, retry_after

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupies one of the places within the context.

        Raises:
            ApiError: all places are occupied.
        """
        if self.active >= self.limit:
            raise ApiError(self._code, self._message.format(limit=self.limit), self._retry_after)
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1


async def run_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function in a thread and waits until it has returned, even if the task is cancelled meanwhile.

    A running thread cannot be cancelled. ``asyncio.to_thread`` raises ``CancelledError`` at once and leaves the thread
    running. If the caller then closes what the thread still uses, such as the container of a video encoder, the process
    crashes, because PyAV's objects are not synchronised. Here the error is raised when the thread has finished.

    Raises:
        CancelledError: the task was cancelled; the result of the function is lost.
    """
    call = partial(contextvars.copy_context().run, partial(function, *args, **kwargs))
    # A future of the executor is not a task, so the end of the event loop does not cancel it.
    future = asyncio.get_running_loop().run_in_executor(None, call)
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        future.exception()  # marks an error of the function as retrieved
        raise cancellation
    return future.result()
