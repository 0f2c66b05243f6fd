"""The form of a request for a video: its fields, their validation, and how it becomes a ``VideoRequest``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import Form, UploadFile
from pydantic import BaseModel, Field
from torch import Tensor

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving import uploads
from s2v_ray.serving.concurrency import run_in_thread
from s2v_ray.serving.errors import ApiError, not_ready
from s2v_ray.serving.service import Service, VideoRequest
from s2v_ray.serving.settings import DEFAULT, ServeSettings

MIN_SIDE = 16
"""Smallest side of a video, in pixels."""
DECODERS = 2
"""Number of requests whose uploads are decoded at a time."""
SHOWN_CHARACTERS = 80
"""Number of characters of a client's text that an error message repeats."""


class AppearanceForm(BaseModel):
    """The fields that say what a video or a live session shows, beside its speech."""

    identity_speech: UploadFile | None = Field(None, description="Show the speech identity of this speech.")
    face: UploadFile | None = Field(
        None, description="Show the face in this JPEG or PNG. A reference bundle requires it."
    )
    take: UploadFile | None = Field(
        None,
        description="Show the take (pose, hair, light, camera) of this JPEG or PNG with one face; without it, a take "
        "is drawn with the seed.",
    )
    aligned: bool = Field(False, description="The pictures are aligned crops, so no face is searched.")
    emotion: str = Field("", description="Show this emotion; empty: the emotion predicted from the speech.")
    emotion_speech: UploadFile | None = Field(None, description="Show the emotion predicted from this speech.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of take and motion: another seed gives another take.")
    model: str = Field("", description="Name of the bundle, from GET /v1/models.")


class VideoForm(AppearanceForm):
    """The fields of a request for a video."""

    speech: UploadFile = Field(description="Speech: WAV, FLAC, MP3, Ogg, WebM, MP4, ...")
    size: int = Field(0, ge=0, description="Side of the video in pixels; 0: the bundle's own.")
    stream: bool = Field(False, description="Answer with fragmented MP4 while it is generated.")


FIELDS = tuple(VideoForm.model_fields)
SentForm = Annotated[VideoForm, Form(media_type="multipart/form-data")]
"""The form as a parameter of a route."""


def check_fields(sent: Iterable[str]) -> None:
    """Checks that a form has no unknown field, so that a misspelt one is not ignored.

    Raises:
        ApiError: bad_request.
    """
    if unknown := sorted(set(sent) - set(FIELDS)):
        name = unknown[0][:SHOWN_CHARACTERS]
        raise ApiError("bad_request", f"{name}: there is no such field; use {', '.join(FIELDS)}")


def bundle_name(model: str, settings: ServeSettings) -> str:
    """Returns the name of the requested bundle.

    Args:
        model: name in the request; empty for the default.
        settings: settings of the endpoint.

    Raises:
        ApiError: unknown_model.
    """
    name = model or DEFAULT
    if name not in settings.uris():
        raise ApiError(
            "unknown_model", f"model: there is no bundle {name[:SHOWN_CHARACTERS]!r}; GET /v1/models lists them"
        )
    return name


def validate(form: VideoForm, settings: ServeSettings) -> str:
    """Checks the fields that do not depend on a bundle; returns the name of the requested bundle.

    Raises:
        ApiError: unknown_model, bad_request.
    """
    name, side = bundle_name(form.model, settings), settings.limits.side
    if form.size and (form.size % 2 or not MIN_SIDE <= form.size <= side):
        raise ApiError("bad_request", f"size: must be an even number from {MIN_SIDE} to {side}")
    return name


def validate_for_bundle(form: AppearanceForm, emotions: tuple[str, ...], reference: bool) -> None:
    """Checks the fields that depend on the bundle.

    Args:
        form: the form.
        emotions: emotions of the bundle.
        reference: whether the bundle is a reference baseline.

    Raises:
        ApiError: unknown_emotion, bad_request, face_needed.
    """
    if form.emotion and form.emotion not in emotions:
        name = form.emotion[:SHOWN_CHARACTERS]
        raise ApiError("unknown_emotion", f"emotion: unknown emotion {name!r}: this bundle has {', '.join(emotions)}")
    if form.emotion and form.emotion_speech:
        raise ApiError("bad_request", "emotion: send a name or emotion_speech, not both")
    if form.face and form.identity_speech:
        raise ApiError("bad_request", "face: send a picture or identity_speech, not both")
    if reference and form.take:
        raise ApiError("bad_request", "take: the face of a reference bundle gives the take: leave it out")
    if reference and not form.face:
        raise ApiError("face_needed", "face: a reference bundle needs a picture of the speaker: send one")


@dataclass(frozen=True, eq=False)
class Appearance:
    """What a form says about the face beside the speech: fields of ``GenerationRequest``."""

    identity: Tensor | None
    emotion: str | Tensor | None
    still: np.ndarray | None
    take: np.ndarray | None


class FormReader:
    """Validates forms, decodes their uploads, and computes the codes that they ask for.

    Args:
        service: the work of the endpoint.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.settings, self.limits = service, service.settings, service.settings.limits
        self._decoders = asyncio.Semaphore(DECODERS)

    async def read(self, form: VideoForm, max_seconds: float) -> VideoRequest:
        """Makes a form into a request.

        Args:
            form: the form.
            max_seconds: longest speech.

        Raises:
            ApiError: the form cannot be used, or the endpoint is not ready.
        """
        if not self.service.ready:
            raise not_ready()
        name = validate(form, self.settings)
        predictor = (await self.service.bundles.load(name)).predictor
        validate_for_bundle(form, predictor.emotions, predictor.reference)
        async with self._decoders:
            speech = await self._speech("speech", form.speech, max_seconds)
        shown = await self.appearance(form, name, predictor)
        request = GenerationRequest(
            speech, shown.identity, shown.emotion, still=shown.still, take=shown.take, seed=form.seed
        )
        return VideoRequest(request, name, form.size)

    async def appearance(self, form: AppearanceForm, name: str, predictor: Predictor) -> Appearance:
        """Decodes the uploads of a form except its speech, and computes the codes that they ask for.

        Args:
            form: the form.
            name: name of the bundle.
            predictor: the bundle.

        Raises:
            ApiError: an upload cannot be used.
        """
        async with self._decoders:
            face = await self._face("face", form.face, form.aligned, predictor)
            take = await self._face("take", form.take, form.aligned, predictor)
            identity_speech = await self._optional_speech("identity_speech", form.identity_speech)
            emotion_speech = await self._optional_speech("emotion_speech", form.emotion_speech)
        identity: Tensor | None = None
        if identity_speech is not None:
            identity = (await self.service.encode_speech(name, identity_speech)).identity
        emotion: str | Tensor | None = form.emotion or None
        if emotion_speech is not None:
            emotion = (await self.service.encode_speech(name, emotion_speech)).emotion
        if face is not None and not predictor.reference:
            identity = await self.service.image_identity(name, face)
        return Appearance(identity, emotion, face if predictor.reference else None, take)

    async def _speech(self, field: str, upload: UploadFile, max_seconds: float) -> np.ndarray:
        return await run_in_thread(uploads.read_speech, field, upload.file, max_seconds, self.limits.decode_seconds)

    async def _optional_speech(self, field: str, upload: UploadFile | None) -> np.ndarray | None:
        return await self._speech(field, upload, self.limits.other_seconds) if upload else None

    async def _face(
        self, field: str, upload: UploadFile | None, aligned: bool, predictor: Predictor
    ) -> np.ndarray | None:
        if not upload:
            return None
        detector = None if aligned else self.service.detector
        return await run_in_thread(
            uploads.read_face, field, upload.file, predictor.size, detector, self.limits.picture_pixels
        )
