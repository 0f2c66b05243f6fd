"""A client of live sessions on Starlette's test client."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from s2v_ray.serving.live_protocol import unpack_frame


def pcm(sound: np.ndarray) -> bytes:
    """float ``[N]`` in [-1, 1] as 16-bit PCM."""
    return (sound * 32768).round().clip(-32768, 32767).astype("<i2").tobytes()


@dataclass
class Received:
    """What a client received until the session was closed."""

    events: list[dict[str, Any]] = field(default_factory=list)
    frames: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    close_code: int = 0

    def event(self, kind: str) -> dict[str, Any]:
        """The only event of a kind."""
        (found,) = [event for event in self.events if event["type"] == kind]
        return found

    @property
    def error(self) -> str:
        """Code of the error event."""
        return str(self.event("error")["error"]["code"])


class LiveClient:
    """One connection."""

    def __init__(self, socket: Any, acknowledges: bool = True) -> None:
        self.socket, self.received, self._acknowledges = socket, Received(), acknowledges

    def hello(self, **fields: Any) -> None:
        self.send(type="hello", **fields)

    def send(self, **message: Any) -> None:
        self.socket.send_text(json.dumps(message))

    def receive(self) -> bool:
        """Receives one message; returns whether the session is still open."""
        message = self.socket.receive()
        if message["type"] == "websocket.close":
            self.received.close_code = message["code"]
            return False
        if message.get("text"):
            self.received.events.append(json.loads(message["text"]))
            return True
        index, seconds, pixels = unpack_frame(message["bytes"])
        self.received.frames[index] = pixels
        self.received.seconds.append(seconds)
        if self._acknowledges:
            self.send(type="ack", frame=index)
        return True

    def until_closed(self) -> Received:
        while self.receive():
            pass
        return self.received

    def until(self, kind: str) -> None:
        """Receives until there is an event of a kind."""
        while not any(event["type"] == kind for event in self.received.events):
            assert self.receive(), self.received.events


@contextmanager
def connected(client: TestClient, acknowledges: bool = True, **options: Any) -> Any:
    """A connection to /v1/live, which is closed at the end."""
    with client.websocket_connect("/v1/live", **options) as socket:
        try:
            yield LiveClient(socket, acknowledges)
        except WebSocketDisconnect as error:
            raise AssertionError(f"closed with {error.code} {error.reason}") from error
