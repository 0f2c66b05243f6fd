"""The ASGI guard in front of the API: token, origin, size and duration of requests, their number, and metrics.

It works before the first byte of a body is read, which a FastAPI dependency or middleware cannot do.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from contextlib import nullcontext, suppress
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2v_ray.serving.concurrency import ConcurrencyLimit
from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.live_protocol import refuse
from s2v_ray.serving.settings import Limits

logger = logging.getLogger(__name__)

DRAIN_BYTES, DRAIN_SECONDS = 256 << 20, 5.0
"""How much of a refused request is still read and discarded, so that the client can read the error."""
UNLIMITED_PATHS = ("/healthz", "/readyz", "/metrics")
"""Paths that the limit of open requests does not apply to."""
MIN_TOKEN_CHARACTERS = 16
ERROR_CODE = "s2v.code"
"""Key of the ASGI scope under which error handlers put the code of the response."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cache-Control": "no-store",
}


def read_token(variable: str) -> str:
    """The bearer token in an environment variable, or "" if no variable is named.

    Raises:
        ValueError: the variable is not set, or its value is too short.
    """
    if not variable:
        return ""
    token = os.environ.get(variable, "")
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise ValueError(
            f"{variable} must hold the bearer token, of at least {MIN_TOKEN_CHARACTERS} characters: "
            "set it, for example to the output of `openssl rand -hex 32`"
        )
    return token


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: the application.
        context: state of the endpoint.
    """

    def __init__(self, app: ASGIApp, context: ApiContext) -> None:
        self.app, self.context = app, context
        requests = context.limits.requests
        self.requests = ConcurrencyLimit(
            requests, "busy", "{limit} requests are open already: try again in a moment", retry_after=2
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] == "websocket":
            await self._handle_websocket(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        body = RequestBody(scope, receive, self.context.limits)
        status = 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await body.drain()
                added = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        try:
            await self._handle(scope, body, send_with_headers)
        finally:
            self._count(scope, status, time.monotonic() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        path = getattr(scope.get("route"), "path", "other")
        metrics = self.context.metrics
        metrics.requests.labels(path, str(status)).inc()
        metrics.seconds.labels(path).observe(seconds)
        if code := scope.get(ERROR_CODE):
            metrics.refused.labels(code).inc()

    async def _handle(self, scope: Scope, body: RequestBody, send: Send) -> None:
        started = complete = False

        async def observe(message: Message) -> None:
            nonlocal started, complete
            started = True
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        slot = nullcontext() if scope["path"] in UNLIMITED_PATHS else self.requests.slot()
        try:
            with slot:
                self._authorise(scope)
                body.check_length()
                await self.app(scope, body.receive, observe)
        except ApiError as error:
            if started:
                raise
            scope[ERROR_CODE] = error.code
            await JSONResponse(error.body(), error.status_code, error.headers)(scope, body.receive, observe)
        except Exception:
            if not complete:  # the response has begun, so the server can only close the connection
                raise
            logger.exception("an error after the response to %s", scope["path"])

    async def _handle_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a WebSocket, whose token its first message may have: browsers cannot send the header."""
        try:
            with self.requests.slot():
                _check_origin(scope)
                await self.app(scope, receive, send)
        except ApiError as error:  # only the guard raises it: the application answers with events
            self.context.metrics.refused.labels(error.code).inc()
            await receive()  # the client's request to connect
            await refuse(send, error)

    def _authorise(self, scope: Scope) -> None:
        """Checks token and origin.

        Raises:
            ApiError: unauthorized, foreign_origin.
        """
        headers = dict(scope["headers"])
        if self.context.token and (scope["path"].startswith("/v1/") or scope["path"] == "/metrics"):
            expected = b"Bearer " + self.context.token.encode()
            if not hmac.compare_digest(headers.get(b"authorization", b""), expected):
                raise ApiError(
                    "unauthorized", "send the header Authorization: Bearer TOKEN with the token of this endpoint"
                )
        if scope["method"] not in ("GET", "HEAD"):
            _check_origin(scope)


def _check_origin(scope: Scope) -> None:
    """Checks that a request of a browser comes from a page of this endpoint.

    Raises:
        ApiError: foreign_origin.
    """
    headers = dict(scope["headers"])
    origin = headers.get(b"origin", b"").decode("latin-1")
    host = headers.get(b"host", b"").decode("latin-1")
    if origin and urlsplit(origin).netloc != host:
        raise ApiError("foreign_origin", "requests from pages of other sites are not accepted")


class RequestBody:
    """The body of a request as it arrives, with limits of size and time."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._receive = receive
        self._max_bytes, self._max_mb = limits.upload_mb << 20, limits.upload_mb
        self._seconds = limits.body_seconds
        self._deadline = time.monotonic() + limits.body_seconds
        self._length = dict(scope["headers"]).get(b"content-length", b"")
        self._bytes = 0
        self._complete = scope["method"] in ("GET", "HEAD")
        self._drained = False

    def check_length(self) -> None:
        """Checks the header Content-Length.

        Raises:
            ApiError: upload_too_large.
        """
        if self._length.isdigit() and int(self._length) > self._max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next message of the client.

        Raises:
            ApiError: upload_too_large, upload_too_slow.
        """
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise ApiError("upload_too_slow", f"the request did not arrive within {self._seconds:g} s") from None
        self._count(message)
        if self._bytes > self._max_bytes:
            raise self._too_large()
        return message

    async def drain(self) -> None:
        """Reads and discards what is left of the body, within ``DRAIN_BYTES`` and ``DRAIN_SECONDS``."""
        if self._complete or self._drained:
            return
        self._drained = True
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._complete and self._bytes < self._max_bytes + DRAIN_BYTES:
                    self._count(await self._receive())

    def _count(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        self._complete = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def _too_large(self) -> ApiError:
        return ApiError(
            "upload_too_large", f"the request has more than {self._max_mb} MiB: send the speech compressed, or shorter"
        )
