"""Requests to the HTTP API, and checks of its responses."""

from __future__ import annotations

import io
from typing import Any

import av
import cv2
import numpy as np
from fastapi.testclient import TestClient

from s2v_ray.serving.errors import CODES


def post(
    client: TestClient, path: str = "/v1/videos/sync", /, data: dict[str, str] | None = None, **files: bytes
) -> Any:
    """Posts a form; ``files``: field -> content."""
    return client.post(path, data=data or {}, files={name: ("upload", content) for name, content in files.items()})


def assert_refused(response: Any, code: str) -> str:
    """Checks that a response is an error of that code, with one line of message; returns the message."""
    assert response.headers["content-type"] == "application/json", response.content[:200]
    error = response.json()["error"]
    assert (error["code"], response.status_code) == (code, CODES[code].status), error
    message: str = error["message"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message


def frames_of(content: bytes) -> np.ndarray:
    """Decodes an MP4 to int ``[T, H, W, 3]``."""
    with av.open(io.BytesIO(content)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]).astype(int)


def comment_of(content: bytes) -> str:
    """The comment in the metadata of an MP4."""
    with av.open(io.BytesIO(content)) as container:
        return container.metadata["comment"]


def make_png(size: int = 40) -> bytes:
    """A picture of noise, without a face."""
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()
