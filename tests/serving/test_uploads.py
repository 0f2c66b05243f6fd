"""Uploads that cannot be used are refused quickly, each with its code."""

from __future__ import annotations

import io
import time

import av
import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2v_ray.serving.errors import ApiError
from s2v_ray.serving.uploads import read_face, read_speech
from tests.helpers.http import assert_refused, make_png, post
from tests.helpers.sounds import speech, wav

NOT_SPEECH = {
    "empty": b"",
    "text": b"this is not sound " * 100,
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "picture": make_png(),
    "pickle": b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("name", NOT_SPEECH)
def test_files_that_are_not_speech(client: TestClient, name: str) -> None:
    assert_refused(post(client, speech=NOT_SPEECH[name]), "speech_unreadable")


def test_an_unknown_codec(client: TestClient) -> None:
    sound = bytearray(wav(speech(0.5)))
    sound[20:22] = b"\x34\x12"  # the format tag of the WAV
    assert_refused(post(client, speech=bytes(sound)), "speech_unreadable")


def test_speech_that_is_too_short_or_too_long(client: TestClient) -> None:
    assert_refused(post(client, speech=wav(speech(0.01))), "speech_too_short")
    assert "5 s" in assert_refused(post(client, speech=wav(speech(6.0))), "speech_too_long")


def test_a_small_file_that_decodes_to_long_silence(client: TestClient) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono", format="s16")
        for i in range(600):  # ten minutes
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, i * 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(out.getvalue()) < 200_000
    began = time.monotonic()
    assert_refused(post(client, speech=out.getvalue()), "speech_too_long")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("rate", [1, 16001, 44101, 1_000_000])
def test_a_sample_rate_whose_filter_would_take_gigabytes(client: TestClient, rate: int) -> None:
    assert "not supported" in assert_refused(post(client, speech=wav(speech(0.5), rate)), "speech_unreadable")


def test_pictures_that_cannot_be_used(client: TestClient) -> None:
    sound, png = wav(speech(0.2)), make_png()
    huge = png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]
    jpeg = cv2.imencode(".jpg", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    assert "60000 x 60000" in assert_refused(post(client, speech=sound, face=huge), "picture_too_large")
    for bad in (b"", b"GIF89a" + bytes(50), png[:60], jpeg[:30], jpeg[:2] + b"\xff\xda" * 100 + jpeg[2:]):
        assert_refused(post(client, speech=sound, face=bad), "picture_unreadable")
    assert_refused(post(client, speech=sound, face=png), "not_one_face")


def test_speech_is_decoded_to_16_khz() -> None:
    sound = speech(0.5)
    decoded = read_speech("speech", io.BytesIO(wav(sound)), 5.0, 5.0)
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, sound, atol=1e-4)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_an_aligned_picture_is_resized_to_rgb(extension: str) -> None:
    pixels = np.full((40, 40, 3), (200, 100, 50), np.uint8)  # blue, green, red
    data = cv2.imencode(extension, pixels)[1].tobytes()
    crop = read_face("face", io.BytesIO(data), 32, None, 10_000)
    assert crop.shape == (32, 32, 3)
    np.testing.assert_allclose(crop[16, 16].astype(int), (50, 100, 200), atol=3)


def test_the_limit_of_pixels_is_checked_before_decoding() -> None:
    with pytest.raises(ApiError, match="40 x 40 pixels exceed the limit of 1000 pixels"):
        read_face("face", io.BytesIO(make_png(40)), 32, None, 1000)
