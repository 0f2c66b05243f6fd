from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from s2v_ray.serving.streaming import BLOCK_BYTES, VideoResponse, read_blocks, with_deadline


async def numbers(closed: list[bool]) -> AsyncGenerator[bytes, None]:
    try:
        for n in range(3):
            yield bytes([n])
    finally:
        closed.append(True)


def test_a_file_is_read_in_blocks_and_closed() -> None:
    file = io.BytesIO(bytes(BLOCK_BYTES + 5))

    async def run() -> list[int]:
        return [len(block) async for block in read_blocks(file)]

    assert asyncio.run(run()) == [BLOCK_BYTES, 5]
    assert file.closed


def test_parts_are_passed_until_the_deadline() -> None:
    closed: list[bool] = []

    async def run(deadline: float) -> list[bytes]:
        return [part async for part in with_deadline(b"first", numbers(closed), deadline)]

    assert asyncio.run(run(time.monotonic() + 60)) == [b"first", b"\0", b"\1", b"\2"]
    with pytest.raises(TimeoutError):
        asyncio.run(run(time.monotonic() - 1))
    assert closed == [True, True]


@pytest.mark.parametrize("fails", [False, True])
def test_a_response_ends_once_however_it_ends(fails: bool) -> None:
    closed: list[bool] = []
    ended: list[bool] = []
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if fails and message["type"] == "http.response.body":
            raise OSError("the client has left")

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def run() -> None:
        response = VideoResponse(numbers(closed), {"Content-Length": "3"}, lambda: ended.append(True))
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)  # type: ignore[arg-type]

    if fails:
        with pytest.raises(Exception):  # noqa: B017, PT011  # Starlette's own error
            asyncio.run(run())
    else:
        asyncio.run(run())
    assert closed == ended == [True]
    headers = dict(sent[0]["headers"])
    assert headers[b"x-synthetic"] == b"true" and headers[b"content-type"] == b"video/mp4"
