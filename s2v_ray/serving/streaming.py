"""Responses that send an MP4 in parts."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import IO

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from s2v_ray.serving.concurrency import run_in_thread

BLOCK_BYTES = 256 << 10
"""Size of the blocks in which a file is sent."""
SYNTHETIC_HEADER = {"X-Synthetic": "true"}
"""Header of every response that is a generated video."""


MODEL_HEADER = "S2V-Model"
"""Header with the name of the bundle that answered."""


class VideoResponse(StreamingResponse):
    """Sends an MP4 as it comes.

    Args:
        content: the bytes; closed when the response ends, however it ends.
        headers: headers beside ``SYNTHETIC_HEADER``.
        on_end: called once when the response has ended.
    """

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] | None = None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(content, headers={**SYNTHETIC_HEADER, **(headers or {})}, media_type="video/mp4")
        self._content, self._on_end = content, on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the response."""
        try:
            async with aclosing(self._content):
                await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def with_deadline(
    first: bytes, rest: AsyncGenerator[bytes, None], deadline: float
) -> AsyncGenerator[bytes, None]:
    """Yields the first part and then the rest.

    Args:
        first: first part.
        rest: further parts.
        deadline: time of ``time.monotonic`` after which no part is sent.

    Raises:
        TimeoutError: the deadline has passed.
    """
    async with aclosing(rest):
        yield first
        async for data in rest:
            if time.monotonic() > deadline:
                raise TimeoutError("a stream took longer than a request may")
            yield data


async def read_blocks(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    """Yields the content of an open file in blocks, and closes it."""
    with file:
        while block := await run_in_thread(file.read, BLOCK_BYTES):
            yield block
