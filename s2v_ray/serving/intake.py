"""What strangers send -> speech and faces. Everything is decoded with limits, from the bytes alone: no name of theirs is ever opened."""

from __future__ import annotations

import struct
import threading
from typing import BinaryIO

import cv2
import numpy as np

from s2v_ray.media.face import Detector, crop_face
from s2v_ray.media.timing import FPS, SAMPLES_PER_FRAME
from s2v_ray.media.upload import AudioTooLongError, read_upload
from s2v_ray.serving.errors import ApiError

MAX_PICTURE_BYTES = 16 << 20
MAX_SCANS = 64
"""Scans of a JPEG: a progressive one has about ten; thousands would take minutes."""

_detecting = threading.Lock()  # OpenCV's detectors keep state


def read_speech(field: str, file: BinaryIO, max_seconds: float, work_seconds: float) -> np.ndarray:
    """float32 ``[N]``, 16 kHz mono in [-1, 1].

    Raises:
        ApiError: speech_unreadable, speech_too_long, speech_too_short.
    """
    try:
        speech = read_upload(file, max_seconds, work_seconds)
    except AudioTooLongError as e:
        raise ApiError("speech_too_long", f"{field}: {e}") from e
    except ValueError as e:
        raise ApiError("speech_unreadable", f"{field}: {e}") from e
    if len(speech) < SAMPLES_PER_FRAME:
        raise ApiError("speech_too_short", f"{field}: the speech is shorter than one video frame, {1000 // FPS} ms")
    return speech


def read_face(file: BinaryIO, size: int, detector: Detector | None, max_pixels: int) -> np.ndarray:
    """The aligned crop, uint8 ``[size, size, 3]`` RGB, of the one face in a JPEG or PNG; without a detector the picture is taken for such a crop.

    Raises:
        ApiError: picture_unreadable, picture_too_large, not_one_face.
    """
    data = file.read(MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise ApiError("picture_too_large", f"face: the picture has more than {MAX_PICTURE_BYTES >> 20} MiB")
    width, height = _dimensions(data)
    if width * height > max_pixels:
        raise ApiError(
            "picture_too_large", f"face: {width} x {height} pixels are more than the {max_pixels} that are allowed"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None or min(image.shape[:2]) < 8:
        raise ApiError("picture_unreadable", "face: the picture is damaged or smaller than 8 pixels")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if detector is None:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    try:
        with _detecting:
            return crop_face(image, size, detector)
    except ValueError as e:
        raise ApiError("not_one_face", f"face: the picture {e}") from e


def _dimensions(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG or PNG says it has, before anything is decoded."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 33 and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") <= MAX_SCANS:
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack(">HH", data[at + 5 : at + 9])
                return width, height
            at += 1 if marker == 0xFF else 2 + length
    raise ApiError("picture_unreadable", "face: this is neither a JPEG nor a PNG that can be read")
