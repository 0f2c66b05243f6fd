"""Why a request is refused: a status, a stable code for programs, and one sentence for people."""

from __future__ import annotations

from starlette.exceptions import HTTPException

CODES = {
    "bad_request": (400, "the request is not what the endpoint expects; the message names the field"),
    "unauthorized": (401, "the bearer token is missing or wrong"),
    "foreign_origin": (403, "the request comes from a page of another site"),
    "not_found": (404, "there is nothing at this address"),
    "unknown_model": (404, "no bundle has that name; GET /v1/models lists them"),
    "unknown_job": (404, "there is no such job, or it has expired"),
    "method_not_allowed": (405, "this address takes another method"),
    "upload_too_slow": (408, "the request did not arrive in time"),
    "job_not_done": (409, "the job has no video (yet)"),
    "already_answered": (409, "this trial of the study has an answer"),
    "upload_too_large": (413, "the request has too many bytes"),
    "speech_too_long": (413, "a speech is longer than allowed, or takes too long to decode"),
    "picture_too_large": (413, "the picture has too many pixels"),
    "speech_unreadable": (415, "a speech cannot be decoded"),
    "picture_unreadable": (415, "the picture cannot be decoded: send JPEG or PNG"),
    "speech_too_short": (422, "the speech is shorter than one frame, 40 ms"),
    "not_one_face": (422, "the picture shows no face, or several"),
    "unknown_emotion": (422, "the bundle does not know that emotion"),
    "face_not_usable": (422, "the endpoint has no identity teacher, so a face cannot stand in for a voice"),
    "face_needed": (422, "a reference bundle needs a picture of the speaker"),
    "too_many_jobs": (429, "enough jobs wait already; see Retry-After"),
    "internal": (500, "a fault of the endpoint"),
    "busy": (503, "enough videos are drawn already; see Retry-After"),
    "not_ready": (503, "the bundle is being loaded; see Retry-After"),
    "too_slow": (504, "the video took longer than a request may; ask for a job"),
}
"""Code -> HTTP status and meaning. Codes are added over time, never renamed."""


class ApiError(HTTPException):
    """Ends a request.

    Args:
        code: of ``CODES``.
        sentence: what is wrong and what to do.
        retry_after: seconds after which to try again.
    """

    def __init__(self, code: str, sentence: str, retry_after: int | None = None) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(CODES[code][0], sentence, headers)
        self.code = code

    def body(self) -> dict[str, dict[str, str]]:
        """What the caller reads."""
        return {"error": {"code": self.code, "message": self.detail}}
