"""The guard: token, origin, size and duration of requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from s2v_ray.serving import guard
from s2v_ray.serving.guard import read_token
from tests.helpers.http import assert_refused, post
from tests.helpers.sounds import speech, wav

FORM_HEADERS = {"Content-Type": "multipart/form-data; boundary=x"}


def test_an_upload_beyond_the_limit_is_refused_by_its_length(client: TestClient) -> None:
    assert_refused(post(client, speech=bytes(2 << 20)), "upload_too_large")


def test_an_upload_without_a_length_is_refused_as_it_arrives(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="speech"; filename="s"\r\n\r\n'
        for _ in range(40):
            yield bytes(64 << 10)

    assert_refused(client.post("/v1/videos/sync", content=endless(), headers=FORM_HEADERS), "upload_too_large")


def test_a_slow_sender_is_refused(make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "DRAIN_SECONDS", 0.1)
    with make_client(limits={"body_seconds": 0.2}) as slow:
        start, body = asyncio.run(send_slowly(slow))[:2]
    assert start["status"] == 408
    assert b"upload_too_slow" in body["body"]


async def send_slowly(client: TestClient) -> list[dict[str, Any]]:
    """Sends two short parts of a form and then nothing; returns the messages of the application."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/v1/videos",
        "raw_path": b"/v1/videos",
        "query_string": b"",
        "headers": [
            (b"content-type", FORM_HEADERS["Content-Type"].encode()),
            (b"authorization", client.headers["Authorization"].encode()),
        ],
        "server": ("test", 80),
        "client": ("test", 1),
        "scheme": "http",
        "root_path": "",
    }
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        if received > 2:
            await asyncio.sleep(30)
        return {"type": "http.request", "body": b"--x\r\n" if received == 1 else b"Content-", "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await client.app(scope, receive, send)  # type: ignore[arg-type, operator]  # the application is ASGI
    return sent


def test_the_token_is_checked_before_the_body(client: TestClient) -> None:
    for wrong in ("", "Bearer ", "Bearer wrong", "Basic eDp5"):
        response = client.post("/v1/videos", content=b"x", headers={"Authorization": wrong})
        assert_refused(response, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"


def test_probes_and_pages_need_no_token(client: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/"):
        assert client.get(path, headers={"Authorization": ""}).status_code == 200, path
    assert_refused(client.get("/metrics", headers={"Authorization": ""}), "unauthorized")


def test_pages_of_other_sites_cannot_post(client: TestClient) -> None:
    files = {"speech": ("s", wav(speech(0.1)))}
    foreign = client.post("/v1/videos/sync", files=files, headers={"Origin": "https://elsewhere.example"})
    assert_refused(foreign, "foreign_origin")
    assert client.post("/v1/videos/sync", files=files, headers={"Origin": "http://testserver"}).status_code == 200


def test_open_requests_are_limited(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"requests": 1}) as small:
        with small.app.app.requests.slot():  # type: ignore[attr-defined]  # the guard
            assert_refused(small.get("/v1/models"), "busy")
            assert small.get("/healthz").status_code == 200
        assert small.get("/v1/models").status_code == 200


def test_every_response_has_security_headers(client: TestClient) -> None:
    for response in (client.get("/healthz"), client.get("/v1/nothing")):
        for name, value in guard.SECURITY_HEADERS.items():
            assert response.headers[name] == value


def test_short_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token("") == ""
    for value in ("", "short"):
        monkeypatch.setenv("S2V_TEST_TOKEN", value)
        with pytest.raises(ValueError, match="S2V_TEST_TOKEN must hold the bearer token"):
            read_token("S2V_TEST_TOKEN")
    monkeypatch.setenv("S2V_TEST_TOKEN", "x" * 16)
    assert read_token("S2V_TEST_TOKEN") == "x" * 16
