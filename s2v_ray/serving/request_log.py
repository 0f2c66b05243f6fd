"""Ids of requests: one id finds a request in the logs of caller, proxy and replica."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2v_ray.logs import identified
from s2v_ray.serving.guard import UNLIMITED_PATHS

logger = logging.getLogger(__name__)

HEADER = b"x-request-id"
"""Header with the id. Ray Serve's proxy sets it in requests that have none, and in responses."""
_VALID = re.compile(rb"[\w.:-]{1,128}")


class RequestLog:
    """ASGI middleware: records that are logged for a request carry its id, and one says how it ended.

    The id is that of the request's header, or a new one, which the response then has.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER, b"")
        own = b"" if _VALID.fullmatch(given) else uuid.uuid4().hex.encode()
        status, began = 0, time.monotonic()

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                status = message.get("status", 101)
                if own:
                    message["headers"] = [*message.get("headers", []), (HEADER, own)]
            await send(message)

        with identified(request=(own or given).decode()):
            try:
                await self.app(scope, receive, observe)
            finally:
                if scope["path"] not in UNLIMITED_PATHS:
                    self._record(scope, status, time.monotonic() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Logs how a request ended; status 0: without a response. The query is not logged."""
        logger.info("%s %s: %d in %.3f s", scope.get("method", "WS"), scope["path"], status, seconds)
