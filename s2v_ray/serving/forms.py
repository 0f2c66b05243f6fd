"""The form of a request for a video: its fields, their validation, and how it becomes a ``VideoRequest``."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema
from torch import Tensor

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.timing import FPS, SAMPLE_RATE
from s2v_ray.serving import uploads
from s2v_ray.serving.concurrency import run_in_thread
from s2v_ray.serving.errors import ApiError, not_ready
from s2v_ray.serving.service import Service, VideoRequest
from s2v_ray.serving.settings import DEFAULT, Limits, ServeSettings
from s2v_ray.serving.traces import span

SIZE = re.compile(r"([0-9]{2,4})x\1")
MIN_SIDE = 16
"""Smallest side of a video, in pixels."""
DECODERS = 2
"""Number of requests whose uploads are decoded at a time."""
SHOWN_CHARACTERS = 80
"""Number of characters of a client's text that an error message repeats."""
MAX_PROMPT = 4000
"""Largest number of characters of a prompt."""
MAX_SECONDS = 86_400.0
"""Largest value of the field ``seconds``; the limits of the endpoint are smaller."""
SPEECH_FIELDS: JsonValue = [{"required": ["speech"]}, {"required": ["input_reference"]}]
"""Of these fields, a form has one."""
SOUND, PICTURE = "audio/*, video/*", "image/jpeg, image/png"
MEDIA_TYPES = {
    "speech": SOUND,
    "input_reference": SOUND,
    "identity_speech": SOUND,
    "emotion_speech": SOUND,
    "face": PICTURE,
    "take": PICTURE,
}
"""Field -> media types of its uploads."""
Upload = Annotated[
    UploadFile | None, WithJsonSchema({"type": "string", "contentMediaType": "application/octet-stream"})
]
"""An upload that may be left out; a form cannot contain null."""


class AppearanceForm(BaseModel):
    """The fields that say what a video or a live session shows, beside its speech."""

    identity_speech: Upload = Field(None, description="Show the speech identity of this speech.")
    face: Upload = Field(None, description="Show the face in this JPEG or PNG. A reference bundle requires it.")
    take: Upload = Field(
        None,
        description="Show the take (pose, hair, light, camera) of this JPEG or PNG with one face; without it, a take "
        "is drawn with the seed.",
    )
    aligned: bool = Field(False, description="The pictures are aligned crops, so no face is searched.")
    emotion: str = Field("", description="Show this emotion; empty: the emotion predicted from the speech.")
    emotion_speech: Upload = Field(None, description="Show the emotion predicted from this speech.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of take and motion: another seed gives another take.")
    model: str = Field("", description="Name of the bundle, from GET /v1/models.")


class VideoForm(AppearanceForm):
    """The fields of a request for a video.

    ``input_reference``, ``prompt``, ``model``, ``seconds`` and ``size`` are those that OpenAI's clients send.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"anyOf": SPEECH_FIELDS})

    speech: Upload = Field(None, description="Speech: WAV, FLAC, MP3, Ogg, WebM, MP4, ... Required.")
    input_reference: Upload = Field(None, description="Another name of `speech`, of OpenAI's clients.")
    prompt: str = Field("", max_length=MAX_PROMPT, description="Shown with the video. The video does not depend on it.")
    seconds: float = Field(
        MAX_SECONDS, ge=1 / FPS, le=MAX_SECONDS, description="Use at most that much of the speech, from its start."
    )
    size: str = Field(
        "",
        description="Width and height in pixels, such as `96x96`: equal and even; empty: the bundle's own.",
        json_schema_extra={"pattern": r"^([0-9]{2,4}x[0-9]{2,4})?$"},
    )


class SyncForm(VideoForm):
    """The fields of a request that is answered with the video."""

    stream: bool = Field(False, description="Answer with fragmented MP4 while it is generated.")


SentVideoForm = Annotated[VideoForm, Form(media_type="multipart/form-data")]
SentSyncForm = Annotated[SyncForm, Form(media_type="multipart/form-data")]
"""The forms as parameters of routes."""


def choose_bundle(model: str, settings: ServeSettings) -> str:
    """Returns the name of the bundle that answers.

    Args:
        model: name in the request; empty for the default, or the canary by its share.
        settings: settings of the endpoint.

    Raises:
        ApiError: unknown_model.
    """
    name = model or (settings.canary if random.random() < settings.canary_share else DEFAULT)
    if name not in settings.uris():
        raise ApiError(
            "unknown_model", f"model: there is no bundle {name[:SHOWN_CHARACTERS]!r}; GET /v1/models lists them"
        )
    return name


def parse_side(size: str, limits: Limits) -> int | None:
    """The side in pixels of a size such as "96x96"; None for an empty one.

    Raises:
        ApiError: unsupported_size.
    """
    if not size:
        return None
    found = SIZE.fullmatch(size)
    side = int(found[1]) if found else 0
    if side % 2 or not MIN_SIDE <= side <= limits.side:
        raise ApiError(
            "unsupported_size",
            f"size: must be SIDExSIDE, with an even number of pixels from {MIN_SIDE} to {limits.side}, such as 96x96",
        )
    return side


def validate_for_bundle(form: AppearanceForm, emotions: tuple[str, ...], reference: bool) -> None:
    """Checks the fields that depend on the bundle.

    Args:
        form: the form.
        emotions: emotions of the bundle.
        reference: whether the bundle is a reference baseline.

    Raises:
        ApiError: unknown_emotion, conflicting_fields, face_needed.
    """
    if form.emotion and form.emotion not in emotions:
        name = form.emotion[:SHOWN_CHARACTERS]
        raise ApiError("unknown_emotion", f"emotion: unknown emotion {name!r}: this bundle has {', '.join(emotions)}")
    if form.emotion and form.emotion_speech:
        raise ApiError("conflicting_fields", "emotion: send a name or emotion_speech, not both")
    if form.face and form.identity_speech:
        raise ApiError("conflicting_fields", "face: send a picture or identity_speech, not both")
    if reference and form.take:
        raise ApiError("conflicting_fields", "take: the face of a reference bundle gives the take: leave it out")
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
        if form.speech and form.input_reference:
            raise ApiError("conflicting_fields", "input_reference: is another name of speech: send one of them")
        upload = form.speech or form.input_reference
        if upload is None:
            raise ApiError("bad_request", "speech: send a recording, for example -F speech=@speech.wav with curl")
        name, side = choose_bundle(form.model, self.settings), parse_side(form.size, self.limits)
        predictor = (await self.service.bundles.load(name)).predictor
        validate_for_bundle(form, predictor.emotions, predictor.reference)
        async with self._decoders:
            speech = await self._speech("speech", upload, max_seconds)
        speech = speech[: int(form.seconds * SAMPLE_RATE)]
        shown = await self.appearance(form, name, predictor)
        request = GenerationRequest(
            speech, shown.identity, shown.emotion, still=shown.still, take=shown.take, seed=form.seed
        )
        return VideoRequest(request, name, side or predictor.size)

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
        with span("decode speech", field=field):
            return await run_in_thread(uploads.read_speech, field, upload.file, max_seconds, self.limits.decode_seconds)

    async def _optional_speech(self, field: str, upload: UploadFile | None) -> np.ndarray | None:
        return await self._speech(field, upload, self.limits.other_seconds) if upload else None

    async def _face(
        self, field: str, upload: UploadFile | None, aligned: bool, predictor: Predictor
    ) -> np.ndarray | None:
        if not upload:
            return None
        detector = None if aligned else self.service.detector
        with span("decode picture", field=field):
            return await run_in_thread(
                uploads.read_face, field, upload.file, predictor.size, detector, self.limits.picture_pixels
            )
