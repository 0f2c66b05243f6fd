"""The route of live sessions."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.helpers.live import connected


def test_a_session_is_opened(client: TestClient) -> None:
    with connected(client) as session:
        session.hello()
        session.until("started")


def test_other_addresses_take_no_websocket(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/videos"):
        pass


def test_a_request_without_websocket_is_not_found(client: TestClient) -> None:
    assert client.get("/v1/live").json()["error"]["code"] == "not_found"
