"""A small HTTP proxy before an S3 server, on a local port, that injects the faults of real networks and servers.

What happens to a request depends on seed, method, path and how often it was tried, not on threads or time.
"""

from __future__ import annotations

import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("internal error", "slow down", "cut before the answer", "cut in the answer")
REFUSALS = {"internal error": (500, "InternalError"), "slow down": (503, "SlowDown")}
Refusal = tuple[int, str]
"""Status and code of S3."""


class FaultyS3:
    """Forwards to ``upstream`` (``http://host:port``), all but a share of the requests.

    Args:
        share: of requests that meet one of ``FAULTS``.
        refuse: from method and path with query, a refusal that is answered instead, always; None lets the request pass.
        headers: replace those of the server's answers, in lower case: a wrong ``date``, another
            ``x-amz-bucket-region``.
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

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805  two selves meet here
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                refusal = proxy.refuse(self.command, self.path) if proxy.refuse else None
                fault = None if refusal else proxy.fault(self.command, self.path)
                refusal = REFUSALS.get(fault or "", refusal)
                if refusal:
                    self.answer(
                        refusal[0],
                        {"content-type": "application/xml"},
                        f"<Error><Code>{refusal[1]}</Code><Message>no</Message></Error>".encode(),
                    )
                    return
                if fault == "cut before the answer":
                    self.close_connection = True
                    return
                upstream = http.client.HTTPConnection(proxy._upstream, timeout=60)
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                response = upstream.getresponse()
                headers = {
                    k.lower(): v
                    for k, v in response.getheaders()
                    if k.lower() not in ("connection", "transfer-encoding")
                }
                self.answer(response.status, headers, response.read(), cut=fault is not None)
                upstream.close()

            def answer(self, status: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
                self.send_response_only(status)
                length = {} if self.command == "HEAD" else {"content-length": str(len(body))}
                for name, value in (headers | length | proxy.headers).items():
                    self.send_header(name, value)
                if not cut or body:
                    self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                self.close_connection = self.close_connection or cut

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        return Handler
