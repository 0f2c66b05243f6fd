"""Reads uploaded speech and pictures. Decoding is limited, and opens no other file or address."""

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
MIN_SIDE = 8
"""Smallest side of a picture, in pixels."""
MAX_SCANS = 64
"""Largest number of scans of a JPEG. A progressive one has about ten; thousands would take minutes to decode."""
PNG_SIGNATURE, JPEG_START, JPEG_SCAN = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xda"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the JPEG segments that contain height and width (ITU-T T.81, table B.1)."""

_detector_lock = threading.Lock()  # OpenCV's detectors have state


def read_speech(field: str, file: BinaryIO, max_seconds: float, work_seconds: float) -> np.ndarray:
    """Decodes speech to float32 ``[N]``, 16 kHz mono in [-1, 1].

    Args:
        field: name of the form's field, for messages.
        file: the upload.
        max_seconds: longest speech.
        work_seconds: longest time that decoding may take.

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


def read_face(field: str, file: BinaryIO, size: int, detector: Detector | None, max_pixels: int) -> np.ndarray:
    """Decodes a JPEG or PNG with one face to an aligned crop, uint8 ``[size, size, 3]`` RGB.

    Args:
        field: name of the form's field, for messages.
        file: the upload.
        size: side of the crop, in pixels.
        detector: finds the face, or None for a picture that is an aligned crop already.
        max_pixels: largest number of pixels of the picture.

    Raises:
        ApiError: picture_unreadable, picture_too_large, not_one_face.
    """
    data = file.read(MAX_PICTURE_BYTES + 1)
    if len(data) > MAX_PICTURE_BYTES:
        raise ApiError("picture_too_large", f"{field}: the picture has more than {MAX_PICTURE_BYTES >> 20} MiB")
    width, height = _dimensions(field, data)
    if width * height > max_pixels:
        raise ApiError(
            "picture_too_large", f"{field}: {width} x {height} pixels exceed the limit of {max_pixels} pixels"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None or min(image.shape[:2]) < MIN_SIDE:
        raise ApiError("picture_unreadable", f"{field}: the picture is damaged or smaller than {MIN_SIDE} pixels")
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if detector is None:
        return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    try:
        with _detector_lock:
            return crop_face(image, size, detector)
    except ValueError as e:
        raise ApiError("not_one_face", f"{field}: the picture {e}") from e


def _dimensions(field: str, data: bytes) -> tuple[int, int]:
    """Width and height in the header of a JPEG or PNG, which is read before anything is decoded."""
    if data.startswith(PNG_SIGNATURE) and len(data) >= 33 and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    if data.startswith(JPEG_START) and data.count(JPEG_SCAN) <= MAX_SCANS:
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
            if marker in JPEG_FRAMES:
                height, width = struct.unpack(">HH", data[at + 5 : at + 9])
                return width, height
            at += 1 if marker == 0xFF else 2 + length
    raise ApiError("picture_unreadable", f"{field}: this is not a readable JPEG or PNG: send one of these")
