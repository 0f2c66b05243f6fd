"""Errors of the HTTP API: a status, a stable code for programs, and a message for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from starlette.exceptions import HTTPException


class ErrorCode(NamedTuple):
    """HTTP status and meaning of a code."""

    status: int
    meaning: str


CODES = {
    "bad_request": ErrorCode(400, "the request is not valid; the message names the field"),
    "unauthorized": ErrorCode(401, "the bearer token is missing or wrong"),
    "foreign_origin": ErrorCode(403, "the request comes from a page of another site"),
    "not_found": ErrorCode(404, "there is nothing at this address"),
    "unknown_model": ErrorCode(404, "no bundle has that name; GET /v1/models lists them"),
    "unknown_video": ErrorCode(404, "there is no such video, or it has expired"),
    "method_not_allowed": ErrorCode(405, "this address takes another method"),
    "upload_too_slow": ErrorCode(408, "the request did not arrive in time"),
    "session_idle": ErrorCode(408, "a live session received nothing for too long"),
    "video_not_completed": ErrorCode(409, "the video has no content, or not yet"),
    "already_answered": ErrorCode(409, "this trial of the study has an answer"),
    "upload_too_large": ErrorCode(413, "the request has too many bytes"),
    "speech_too_long": ErrorCode(413, "a speech is longer than allowed, or takes too long to decode"),
    "session_too_long": ErrorCode(413, "the live session reached its longest duration; open another one"),
    "picture_too_large": ErrorCode(413, "the picture has too many pixels"),
    "speech_unreadable": ErrorCode(415, "a speech cannot be decoded"),
    "picture_unreadable": ErrorCode(415, "the picture cannot be decoded: send JPEG or PNG"),
    "speech_too_short": ErrorCode(422, "the speech is shorter than one frame, 40 ms"),
    "not_one_face": ErrorCode(422, "the picture shows no face, or several"),
    "unsupported_size": ErrorCode(422, "the size is not square, odd, too small or too large"),
    "conflicting_fields": ErrorCode(422, "fields that cannot be sent together"),
    "unknown_emotion": ErrorCode(422, "the bundle does not have that emotion"),
    "face_not_usable": ErrorCode(422, "the endpoint has no identity teacher, so a face cannot replace a voice"),
    "face_needed": ErrorCode(422, "a reference bundle needs a picture of the speaker"),
    "too_many_videos": ErrorCode(429, "too many videos are queued; see Retry-After"),
    "audio_too_fast": ErrorCode(429, "the audio of a live session arrives faster than it is spoken"),
    "internal": ErrorCode(500, "an error of the endpoint"),
    "busy": ErrorCode(503, "too many requests are open; see Retry-After"),
    "too_many_sessions": ErrorCode(503, "all live sessions of the replica are in use; connect again later"),
    "stopping": ErrorCode(503, "the replica stops; connect again"),
    "not_ready": ErrorCode(503, "the bundle is being loaded; see Retry-After"),
    "too_slow": ErrorCode(504, "the video took longer than a request may; use POST /v1/videos"),
}
"""Code -> status and meaning. Codes are added over time, never renamed."""


class ApiError(HTTPException):
    """An error that ends a request.

    Args:
        code: key of ``CODES``.
        message: what is wrong and what to do.
        retry_after: number of seconds after which the client should try again.
        headers: further headers of the response.
    """

    def __init__(
        self, code: str, message: str, retry_after: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        headers = {**(headers or {}), **({} if retry_after is None else {"Retry-After": str(retry_after)})}
        if code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(CODES[code].status, message, headers)
        self.code = code

    def body(self) -> dict[str, dict[str, str]]:
        """The JSON body of the response."""
        return {"error": {"code": self.code, "message": self.detail}}


def not_ready() -> ApiError:
    """The error of an endpoint that is still loading its bundle."""
    return ApiError("not_ready", "the bundle is being loaded: try again in a moment", retry_after=5)


class ErrorDetail(BaseModel):
    """What is wrong."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorDetail


OTHER_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "another error of the request"}
}
"""Description of the error responses that any route can have, for OpenAPI."""


def describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of the error responses with these statuses, for OpenAPI: every code with its meaning."""
    return {
        status: {
            "model": ErrorResponse,
            "description": ", ".join(
                f"`{name}`: {code.meaning}" for name, code in CODES.items() if code.status == status
            ),
        }
        for status in statuses
    }
