"""The messages of ``WS /v1/live``, as ``docs/live.md`` describes them."""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.types import Send

from s2v_ray.inference.live import LiveFrame
from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.forms import AppearanceForm

MAX_CHUNK_BYTES = 1 << 20
"""Largest binary message: 5 s at the highest sample rate."""
FRAME_HEADER = struct.Struct("<Qd")
"""Header of a frame: index (unsigned, 64 bits) and time of its audio in seconds (float, 64 bits), little-endian."""
NORMAL_CLOSURE, POLICY_VIOLATION, INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER = 1000, 1008, 1011, 1012, 1013
"""Codes of the WebSocket protocol with which a session is closed (RFC 6455 and the registry of IANA)."""


class Message(BaseModel):
    """A message of the client. Unknown fields are errors, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid")


class Hello(Message):
    """The first message of a client: what the session shows, and how audio and frames are encoded."""

    type: Literal["hello"]
    token: str = Field("", description="Bearer token, where the header Authorization cannot be sent.")
    sample_rate: int = Field(16_000, ge=8000, le=96_000, description="Samples per second of the audio.")
    format: Literal["jpeg", "webp"] = Field("jpeg", description="Encoding of the frames.")
    quality: int = Field(85, ge=1, le=100, description="Quality of the encoding.")
    model: str = Field("", description="Name of the bundle, from GET /v1/models.")
    emotion: str = Field("", description="Show this emotion; empty: the emotion predicted from the speech.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of take and motion.")
    identity_speech: str = Field("", description="Base64 of a recording: show its speech identity.")
    emotion_speech: str = Field("", description="Base64 of a recording: show its emotion.")
    face: str = Field("", description="Base64 of a JPEG or PNG: show the face in it.")
    take: str = Field("", description="Base64 of a JPEG or PNG: show its pose, hair, light and camera.")
    aligned: bool = Field(False, description="The pictures are aligned crops, so no face is searched.")

    def form(self) -> AppearanceForm:
        """The choices of what is shown, as a form.

        Raises:
            ApiError: bad_request, if a field is not valid Base64.
        """
        return AppearanceForm(
            identity_speech=self._upload("identity_speech"),
            face=self._upload("face"),
            take=self._upload("take"),
            aligned=self.aligned,
            emotion=self.emotion,
            emotion_speech=self._upload("emotion_speech"),
            seed=self.seed,
            model=self.model,
        )

    def _upload(self, name: str) -> UploadFile | None:
        text = getattr(self, name)
        if not text:
            return None
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError("bad_request", f"{name}: is not valid Base64") from None
        return UploadFile(io.BytesIO(data), size=len(data))


class Gap(Message):
    """Audio was lost: silence of the same length takes its place."""

    type: Literal["gap"]
    samples: int = Field(gt=0, description="Number of lost samples.")


class Ack(Message):
    """The last frame that the client received. Frames beyond the window after it are skipped."""

    type: Literal["ack"]
    frame: int = Field(ge=0, lt=2**63, description="Index of the frame.")


class End(Message):
    """No more audio follows. The last frames are sent, and the session is closed."""

    type: Literal["end"]


_LATER: TypeAdapter[Gap | Ack | End] = TypeAdapter(Annotated[Gap | Ack | End, Field(discriminator="type")])


def parse_hello(text: str) -> Hello:
    """Parses the first message.

    Raises:
        ApiError: bad_request.
    """
    try:
        return Hello.model_validate_json(text)
    except ValidationError as e:
        raise _invalid(e, "hello") from None


def parse_message(text: str) -> Gap | Ack | End:
    """Parses a later text message.

    Raises:
        ApiError: bad_request.
    """
    try:
        return _LATER.validate_json(text)
    except ValidationError as e:
        raise _invalid(e, "message") from None


def _invalid(error: ValidationError, name: str) -> ApiError:
    found = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(str(part) for part in found["loc"])[:80] or name
    return ApiError("bad_request", f"{field}: {found['msg'][:1].lower()}{found['msg'][1:200]}")


def pack_frame(frame: LiveFrame, hello: Hello) -> bytes:
    """A frame as a binary message: ``FRAME_HEADER``, then the JPEG or WebP."""
    flag = cv2.IMWRITE_JPEG_QUALITY if hello.format == "jpeg" else cv2.IMWRITE_WEBP_QUALITY
    bgr = cv2.cvtColor(frame.pixels, cv2.COLOR_RGB2BGR)
    encoded, picture = cv2.imencode(f".{hello.format}", bgr, [flag, hello.quality])
    assert encoded, "OpenCV encodes every uint8 picture"
    return FRAME_HEADER.pack(frame.index, frame.seconds) + picture.tobytes()


def unpack_frame(data: bytes) -> tuple[int, float, np.ndarray]:
    """Index, seconds and pixels uint8 ``[size, size, 3]`` RGB of a binary message."""
    index, seconds = FRAME_HEADER.unpack_from(data)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8, offset=FRAME_HEADER.size), cv2.IMREAD_COLOR)
    if picture is None:
        raise ValueError("the picture of the frame cannot be decoded")
    return index, seconds, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def close_code(error: ApiError) -> int:
    """The WebSocket close code of an error: clients connect again after 1012 and 1013."""
    if error.code == "stopping":
        return SERVICE_RESTART
    if error.status_code == 503:
        return TRY_AGAIN_LATER
    return POLICY_VIOLATION if error.status_code < 500 else INTERNAL_ERROR


def error_event(error: ApiError) -> dict[str, Any]:
    """The event that precedes the closure of a session with an error."""
    return {"type": "error", **error.body()}


async def refuse(send: Send, error: ApiError) -> None:
    """Accepts a WebSocket, sends an error event and closes it, so that clients can read the code."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(error_event(error))})
    await send({"type": "websocket.close", "code": close_code(error), "reason": error.code})
