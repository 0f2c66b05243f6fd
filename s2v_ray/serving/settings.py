"""What can be set of an endpoint. The same fields are the ``args`` of its application in a Serve config file."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from s2v_ray.config import Positive, Section

DEFAULT, REFERENCE = "default", "reference"
"""Names of the bundle that answers unless another is asked for, and of the reference baseline that the page compares it with."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the field."""


class Limits(Section):
    """What one caller, and all together, may ask for. What goes beyond is refused with a code (see ``errors.CODES``)."""

    upload_mb: Positive = Field(64, description="Size of a request, MiB.")
    body_seconds: float = Field(60, gt=0, description="A request must have arrived within so many seconds.")
    video_seconds: float = Field(120, gt=0, description="Length of the speech of POST /v1/videos.")
    job_seconds: float = Field(1800, gt=0, description="Length of the speech of POST /v1/jobs.")
    other_seconds: float = Field(30, gt=0, description="Length of a speech that gives identity or emotion.")
    decode_seconds: float = Field(20, gt=0, description="Time that decoding one upload may take.")
    draw_seconds: float = Field(600, gt=0, description="Time that one video may take; jobs have no such limit.")
    picture_pixels: Positive = Field(16_000_000, description="Pixels of a still image.")
    side: Positive = Field(512, description="Largest side of a video.")
    videos: Positive = Field(32, description="Videos that a replica draws at a time; one more is answered 503.")
    jobs: Positive = Field(8, description="Jobs that wait or run in a replica; one more is answered 429.")
    requests: Positive = Field(
        256,
        description="Requests that a replica holds open at a time, arriving ones included; one more is answered 503.",
    )


class ServeSettings(Section):
    """An endpoint."""

    bundle: str = Field(description="URI of the bundle that answers.")
    reference: str = Field("", description="URI of a reference bundle, to compare with.")
    bundles: dict[str, str] = Field(
        {}, description="More bundles: name to URI. A replica loads what it is asked for, and keeps the last few."
    )
    teacher: str = Field(
        "",
        description="URI of the identity teacher of the bundles (CORPUS/teachers/identity); without it, no face can stand in for a voice.",
    )
    detector: str = Field("haar", description="Finds the face in a picture: haar, or the URI of YuNet weights.")
    jobs: str = Field("", description="URI of the folder of jobs, the same for all replicas; empty: no jobs.")
    job_hours: float = Field(24, gt=0, description="A job and its video are removed so long after it was made.")
    study: str = Field("", description="URI of the study made by `s2v study make`; empty: no study.")
    token_env: str = Field("", description="Environment variable that holds the bearer token; empty: none is demanded.")
    device: str = Field("cpu", description="cpu or cuda.")
    threads: Positive = Field(1, description="Compute threads of a replica.")
    cpus: float = Field(1, ge=0, description="CPUs of a replica, as Ray counts them.")
    gpus: float = Field(0, ge=0, description="GPUs of a replica.")
    replicas: tuple[int, int] = Field((1, 1), description="Fewest and most replicas.")
    load: float = Field(
        8, gt=0, description="Requests at a time that one replica should have; above that, replicas are added."
    )
    batch_frames: Positive = Field(
        32, description="Frames drawn in one go, over all requests. On a CPU, more only leave the cache."
    )
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.bundles:
            if name in (DEFAULT, REFERENCE) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
                raise ValueError(
                    f"bundles: {name!r} cannot be a bundle's name here: take letters, digits, and . _ -; {DEFAULT} and {REFERENCE} are taken"
                )
        if not 1 <= self.replicas[0] <= self.replicas[1]:
            raise ValueError("replicas: fewest and most, from 1 up")
        return self

    def uris(self) -> dict[str, str]:
        """Name of every bundle to its URI, the one that answers first."""
        return {DEFAULT: self.bundle, **({REFERENCE: self.reference} if self.reference else {}), **self.bundles}


def parse_settings(values: dict[str, Any]) -> ServeSettings:
    """Settings from plain values.

    Raises:
        SettingsError: a field that is missing, unknown or cannot be used.
    """
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as e:
        said = "; ".join(
            f"{'.'.join(map(str, x['loc']))}: {x['msg']}".removeprefix(": ").replace("Value error, ", "")
            for x in e.errors()
        )
        raise SettingsError(f"the settings of the endpoint cannot be used: {said}") from e
