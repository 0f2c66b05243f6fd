"""Messages of live sessions: frames, codes of closure, and JSON of clients."""

from __future__ import annotations

import base64
import struct

import cv2
import numpy as np
import pytest

from s2v_ray.inference.live import LiveFrame
from s2v_ray.serving.errors import CODES, ApiError
from s2v_ray.serving.live_protocol import (
    Ack,
    End,
    Gap,
    Hello,
    close_code,
    error_event,
    pack_frame,
    parse_hello,
    parse_message,
    unpack_frame,
)


@pytest.mark.parametrize(("kind", "start"), [("jpeg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_a_frame_is_a_header_and_a_picture(kind: str, start: bytes) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :, 0] = 200  # red
    data = pack_frame(LiveFrame(90_000, pixels), Hello.model_validate({"type": "hello", "format": kind}))
    assert struct.unpack("<Qd", data[:16]) == (90_000, 3600.0)
    assert data[16:].startswith(start)
    index, seconds, shown = unpack_frame(data)
    assert (index, seconds) == (90_000, 3600.0)
    assert np.abs(shown.astype(int) - pixels).max() <= 8


def test_a_damaged_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="cannot be decoded"):
        unpack_frame(struct.pack("<Qd", 0, 0.0) + b"nothing")


def test_higher_quality_is_larger() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    sizes = [len(pack_frame(LiveFrame(0, pixels), Hello(type="hello", quality=q))) for q in (10, 95)]
    assert sizes[0] < sizes[1] / 2


def test_messages() -> None:
    assert parse_hello('{"type": "hello"}') == Hello(type="hello")
    assert parse_message('{"type": "gap", "samples": 3}') == Gap(type="gap", samples=3)
    assert parse_message('{"type": "ack", "frame": 3}') == Ack(type="ack", frame=3)
    assert parse_message('{"type": "end"}') == End(type="end")


def test_the_message_of_an_error_is_one_short_line() -> None:
    with pytest.raises(ApiError) as caught:
        parse_hello('{"type": "hello", "' + "x" * 5000 + '": 1}')
    assert len(caught.value.detail) < 300
    assert "\n" not in caught.value.detail


def test_every_code_closes_with_a_code_of_the_protocol() -> None:
    codes = {code: close_code(ApiError(code, "m")) for code in CODES}
    assert codes["bad_request"] == codes["unauthorized"] == codes["audio_too_fast"] == 1008
    assert codes["too_many_sessions"] == codes["busy"] == codes["not_ready"] == 1013
    assert codes["stopping"] == 1012
    assert codes["internal"] == 1011
    assert error_event(ApiError("busy", "m")) == {"type": "error", "error": {"code": "busy", "message": "m"}}


def test_pictures_and_recordings_become_uploads() -> None:
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    form = Hello(type="hello", take=base64.b64encode(png).decode(), seed=5, emotion="sad").form()
    assert form.take is not None and form.take.file.read() == png
    assert (form.seed, form.emotion, form.face, form.identity_speech) == (5, "sad", None, None)
