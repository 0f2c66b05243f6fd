"""The settings of an endpoint. The same fields are the ``args`` of its application in a Serve config file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from s2v_ray.config import Positive, Section

DEFAULT, REFERENCE = "default", "reference"
"""Names of the bundle that answers unless another is requested, and of the reference baseline for comparison."""


class SettingsError(ValueError):
    """Settings that cannot be used; the message names the field."""


class Limits(Section):
    """Limits of one request, and of all requests together. Requests beyond them get an error (see ``errors.CODES``)."""

    upload_mb: Positive = Field(64, description="Largest size of a request, MiB.")
    body_seconds: float = Field(60, gt=0, description="Longest time for a request to arrive.")
    video_seconds: float = Field(1800, gt=0, description="Longest speech of POST /v1/videos.")
    sync_seconds: float = Field(120, gt=0, description="Longest speech of POST /v1/videos/sync.")
    other_seconds: float = Field(30, gt=0, description="Longest speech that gives identity or emotion.")
    decode_seconds: float = Field(20, gt=0, description="Longest time to decode one upload.")
    draw_seconds: float = Field(600, gt=0, description="Longest time of POST /v1/videos/sync to generate a video.")
    picture_pixels: Positive = Field(16_000_000, description="Largest number of pixels of a picture.")
    side: Positive = Field(512, description="Largest side of a video.")
    videos: Positive = Field(
        8, description="Videos of a replica that are queued or in progress; a further request gets 429."
    )
    sync: Positive = Field(
        32, description="Requests for videos that a replica reads or answers at a time; a further one gets 503."
    )
    live: Positive | None = Field(
        None, description="Live sessions of a replica at a time; a further one is refused. Default: measured at start."
    )
    live_seconds: float = Field(14_400, gt=0, description="Longest live session.")
    live_idle_seconds: float = Field(
        30, gt=0, description="Longest time in which a live session receives nothing, the first message included."
    )
    requests: Positive = Field(
        256, description="Open requests of a replica, arriving ones included; a further request gets 503."
    )


class ServeSettings(Section):
    """Settings of an endpoint."""

    bundle: str = Field(description="URI of the bundle that answers.")
    reference: str = Field("", description="URI of a reference bundle, for comparison.")
    bundles: dict[str, str] = Field(
        {}, description="Further bundles: name to URI. A replica loads a bundle on request, and keeps the last few."
    )
    canary: str = Field("", description="Name of one of `bundles` that answers a share of the requests that name none.")
    canary_share: float = Field(0.0, ge=0, le=1, description="That share.")
    teacher: str = Field(
        "",
        description="URI of the identity teacher of the bundles (CORPUS/teachers/identity). Without it, a face cannot "
        "replace a voice.",
    )
    detector: str = Field("haar", description="Finds faces in pictures: haar, or the URI of YuNet weights.")
    videos: str = Field(
        "", description="URI of the folder of videos, the same for all replicas; empty: only POST /v1/videos/sync."
    )
    video_hours: float = Field(24, gt=0, description="Hours after which a video is removed.")
    study: str = Field("", description="URI of the study made by `s2v study make`; empty: no study.")
    token_env: str = Field("", description="Environment variable with the bearer token; empty: no token is required.")
    device: str = Field("cpu", description="cpu or cuda.")
    threads: Positive = Field(1, description="Compute threads of a replica.")
    cpus: float = Field(1, ge=0, description="CPUs of a replica, as Ray counts them.")
    gpus: float = Field(0, ge=0, description="GPUs of a replica.")
    replicas: tuple[int, int] = Field((1, 1), description="Smallest and largest number of replicas.")
    load: float = Field(
        8, gt=0, description="Requests at a time for each replica; with more of them, replicas are added."
    )
    batch_frames: Positive = Field(
        32, description="Frames of one batch, over all requests. On a CPU, larger batches do not fit into the cache."
    )
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.bundles:
            if name in (DEFAULT, REFERENCE) or not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name):
                raise ValueError(
                    f"bundles: {name!r} cannot be the name of a bundle: use letters, digits, and . _ -; "
                    f"{DEFAULT} and {REFERENCE} are reserved"
                )
        if self.canary and self.canary not in self.bundles:
            raise ValueError(f"canary: {self.canary!r} is none of the bundles: name it there with its URI")
        if self.canary_share and not self.canary:
            raise ValueError("canary_share: needs canary, the name of the bundle that gets this share")
        if not 1 <= self.replicas[0] <= self.replicas[1]:
            raise ValueError("replicas: must be the smallest and the largest number, at least 1")
        return self

    def uris(self) -> dict[str, str]:
        """Name -> URI of every bundle, the default first."""
        return {DEFAULT: self.bundle, **({REFERENCE: self.reference} if self.reference else {}), **self.bundles}


def parse_settings(values: Mapping[str, Any]) -> ServeSettings:
    """Parses settings from plain values.

    Raises:
        SettingsError: a field is missing, unknown or not valid.
    """
    try:
        return ServeSettings.model_validate(values)
    except ValidationError as e:
        problems = "; ".join(
            f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ").replace("Value error, ", "")
            for error in e.errors()
        )
        raise SettingsError(f"the settings of the endpoint are not valid: {problems}") from e
