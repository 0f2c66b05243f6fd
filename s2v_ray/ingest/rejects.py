"""Reasons for which a clip is not used."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a clip is rejected; the values are stored in the manifest and in rejects.parquet."""

    UNREADABLE = "unreadable"
    NO_SOUND = "no_sound"
    NO_PICTURE = "no_picture"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    SMALL_FACE = "small_face"
    TRUNCATED = "truncated"
    TOO_SHORT = "too_short"
    OUT_OF_RANGE = "out_of_range"
    DUPLICATE = "duplicate"
    BLURRED = "blurred"
    TURNED = "turned"
    LITTLE_SPEECH = "little_speech"
    OUT_OF_SYNC = "out_of_sync"


QUALITY = (Reason.BLURRED, Reason.TURNED, Reason.LITTLE_SPEECH, Reason.OUT_OF_SYNC)
"""Reasons that the recipe asks for. They say nothing of the source being the wrong one or damaged."""


class Reject(Exception):
    """Raised for a file that cannot be used.

    Attributes:
        reason: counted in the manifest.
        detail: what was found in the file.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
