"""Routes that generate videos and list bundles."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from s2v_ray.models.bundle import read_card
from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import describe_errors
from s2v_ray.serving.forms import SentForm, VideoForm, check_fields
from s2v_ray.serving.streaming import VideoResponse, read_blocks, with_deadline

VIDEO_CONTENT: dict[str, Any] = {"content": {"video/mp4": {}}}
FORM_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 503, 504)
"""Statuses of the errors of a request with a form."""
CARD_KEYS = ("emotions", "reference", "notice", "intended_use", "misuse", "risks", "parameters", "sha256")
"""Keys of a bundle's card that GET /v1/models shows."""


def make_router(context: ApiContext) -> APIRouter:
    """The routes POST /v1/videos and GET /v1/models."""
    router = APIRouter()

    @router.post("/v1/videos", response_class=Response, responses={200: VIDEO_CONTENT, **describe_errors(*FORM_ERRORS)})
    async def create_video(request: Request, form: SentForm) -> Response:
        """Generate a talking face for speech: an MP4, or with `stream=true` fragmented MP4 while it is generated."""
        check_fields(await request.form())
        return await _create_video(context, form)

    @router.get("/v1/models", responses=describe_errors(400, 401))
    async def list_models() -> dict[str, Any]:
        """List the bundles (names, emotions, sizes, intended use, misuse) and the limits."""
        return {
            "models": await asyncio.to_thread(_list_models, context),
            "limits": context.limits.model_dump(),
            "jobs": context.has_jobs,
            "study": context.has_study,
        }

    return router


async def _create_video(context: ApiContext, form: VideoForm) -> Response:
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(context.videos.slot())
        request = await context.forms.read(form, context.limits.video_seconds)
        if not form.stream:
            file = await context.service.render(request)
            context.metrics.first_byte.observe(time.monotonic() - began)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return VideoResponse(read_blocks(file), {"Content-Length": str(size)}, file.close)
        parts = context.service.stream(request)
        first = await anext(parts)  # until here, an error has a status of its own
        context.metrics.first_byte.observe(time.monotonic() - began)
        deadline = began + context.limits.draw_seconds
        # The stream keeps its place until it has ended.
        return VideoResponse(with_deadline(first, parts, deadline), on_end=stack.pop_all().close)


def _list_models(context: ApiContext) -> list[dict[str, Any]]:
    teacher = context.service.teacher
    found = []
    for name, uri in context.settings.uris().items():
        card = read_card(uri, "speech2video")
        faces = card["reference"] or bool(teacher and teacher.dim == card["identity_dim"])
        shown = {key: card[key] for key in CARD_KEYS}
        found.append({"name": name, "size": card["recipe"]["media"]["size"], "faces": faces, **shown})
    return found
