"""A small HTTP proxy in front of an S3 server that produces the faults of real networks and servers.

The fault of a request depends on seed, method, path and the number of attempts, not on threads or time.
"""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType, TracebackType
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("internal error", "slow down", "cut before the answer", "cut in the answer")
Refusal = tuple[int, str]
"""Status and code of S3."""
REFUSALS: dict[str, Refusal] = {"internal error": (500, "InternalError"), "slow down": (503, "SlowDown")}
"""The faults that are refusals."""
NOT_FORWARDED = ("connection", "transfer-encoding")


class FaultyS3:
    """Forwards requests to ``upstream`` (``http://host:port``), except for a share of them.

    Args:
        upstream: address of the server.
        share: of requests with one of ``FAULTS``.
        seed: of the faults.
        refuse: method and path with query -> refusal that is always answered; None forwards the request.
        headers: replace those of the responses, in lower case: a wrong ``date``, another ``x-amz-bucket-region``.
    """

    def __init__(
        self,
        upstream: str,
        *,
        share: float = 0.0,
        seed: int = 0,
        refuse: Callable[[str, str], Refusal | None] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.share, self.seed, self.refuse, self.headers = share, seed, refuse, headers or {}
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._upstream = urlsplit(upstream).netloc
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultyS3:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method: str, path: str) -> str | None:
        with self._lock:
            key = f"{method} {path}"
            self._tries[key] += 1
            self.requests += 1
            draw = random.Random(f"{self.seed} {key} {self._tries[key]}")
            found = draw.choice(FAULTS) if draw.random() < self.share else None
            if found:
                self.faults[found] += 1
            return found

    def respond(self, handler: _Handler) -> None:
        """Answers one request: a refusal, a fault, or the server's response."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        refusal = self.refuse(handler.command, handler.path) if self.refuse else None
        fault = None if refusal else self.fault(handler.command, handler.path)
        refusal = refusal or REFUSALS.get(fault or "")
        if refusal:
            text = f"<Error><Code>{refusal[1]}</Code><Message>no</Message></Error>"
            handler.answer(refusal[0], {"content-type": "application/xml"} | self.headers, text.encode())
        elif fault == "cut before the answer":
            handler.close_connection = True
        else:
            upstream = http.client.HTTPConnection(self._upstream, timeout=60)
            upstream.request(handler.command, handler.path, body, dict(handler.headers.items()))
            response = upstream.getresponse()
            kept = {k.lower(): v for k, v in response.getheaders() if k.lower() not in NOT_FORWARDED}
            handler.answer(response.status, kept, response.read(), self.headers, cut=fault is not None)
            upstream.close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        return type("Handler", (_Handler,), {"proxy": self})


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyS3
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def forward(self) -> None:
        self.proxy.respond(self)

    def answer(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        replaced: Mapping[str, str] = MappingProxyType({}),
        *,
        cut: bool = False,
    ) -> None:
        self.send_response_only(status)
        length = {} if self.command == "HEAD" else {"content-length": str(len(body))}
        for name, value in (headers | length | dict(replaced)).items():
            self.send_header(name, value)
        if not cut or body:
            self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward
