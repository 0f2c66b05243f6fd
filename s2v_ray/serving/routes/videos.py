"""Routes that generate, store and list videos."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import RedirectResponse, Response
from starlette.convertors import Convertor, register_url_convertor

from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import describe_errors
from s2v_ray.serving.forms import MEDIA_TYPES, SentSyncForm, SentVideoForm, SyncForm
from s2v_ray.serving.streaming import MODEL_HEADER, SYNTHETIC_HEADER, VideoResponse, read_blocks, with_deadline
from s2v_ray.serving.video_store import ID_PATTERN
from s2v_ray.serving.videos import DeletedVideo, Video, VideoList

VIDEO_CONTENT: dict[str, Any] = {"content": {"video/mp4": {}}}
FORM_ERRORS = (400, 401, 403, 404, 408, 413, 415, 422, 503)
"""Statuses of the errors of a request with a form."""
FORM_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "multipart/form-data": {"encoding": {name: {"contentType": kinds} for name, kinds in MEDIA_TYPES.items()}}
        }
    }
}
LINKS: dict[str, Any] = {
    "links": {
        name: {"operationId": name, "parameters": {"video_id": "$response.body#/id"}}
        for name in ("get_video", "get_video_content", "delete_video")
    }
}
"""What can be done with a video that a response describes."""


class VideoIdConvertor(Convertor[str]):
    """Part of a path that is the id of a video: any but "sync", which has a route of its own."""

    regex = "(?!sync$)[^/]+"

    def convert(self, value: str) -> str:
        """The id in a path."""
        return value

    def to_string(self, value: str) -> str:
        """The id in a path."""
        return value


register_url_convertor("video", VideoIdConvertor())

PageSize = Annotated[int, Query(ge=1, le=100, description="Largest number of videos of the page.")]
After = Annotated[str | None, Query(pattern=ID_PATTERN, description="Id of the last video of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By time of creation; desc: the newest video first.")]
Redirect = Annotated[
    bool,
    Query(description="Whether to answer with a redirection to S3 if the content is there. Web pages cannot follow."),
]
Variant = Annotated[Literal["video"], Query(description="What to get of the video.")]


def make_router(context: ApiContext) -> APIRouter:
    """The routes /v1/videos and below."""
    router = APIRouter()

    @router.post("/v1/videos", responses={200: LINKS, **describe_errors(*FORM_ERRORS, 429)}, openapi_extra=FORM_BODY)
    async def create_video(form: SentVideoForm) -> Video:
        """Create a video of a talking face for speech. Get its content when it is completed."""
        videos = context.videos
        with context.sync.slot():
            return await videos.create(await context.forms.read(form, context.limits.video_seconds), form.prompt)

    @router.post(
        "/v1/videos/sync",
        response_class=Response,
        responses={200: VIDEO_CONTENT, **describe_errors(*FORM_ERRORS, 504)},
        openapi_extra=FORM_BODY,
    )
    async def create_video_sync(form: SentSyncForm) -> Response:
        """Generate a video and answer with it: an MP4, or with `stream=true` fragmented MP4 while it is generated."""
        return await _answer_with_video(context, form)

    @router.get("/v1/videos", responses=describe_errors(400, 401, 404))
    async def list_videos(after: After = None, limit: PageSize = 20, order: Order = "desc") -> VideoList:
        """List the videos."""
        return await context.videos.list_page(after, limit, order)

    @router.get("/v1/videos/{video_id:video}", responses=describe_errors(401, 404))
    async def get_video(video_id: str) -> Video:
        """Get status and progress of a video."""
        return await context.videos.get(video_id)

    @router.get(
        "/v1/videos/{video_id:video}/content",
        response_class=Response,
        responses={
            200: VIDEO_CONTENT,
            307: {"description": "The content is at a presigned URL of S3."},
            **describe_errors(400, 401, 404, 409),
        },
    )
    async def get_video_content(
        video_id: str,
        variant: Variant = "video",  # noqa: ARG001  # only checked
        redirect: Redirect = True,
    ) -> Response:
        """Get the MP4 of a video that is completed."""
        url, data = await context.videos.content(video_id, redirect=redirect)
        return RedirectResponse(url, 307) if url else Response(data, media_type="video/mp4", headers=SYNTHETIC_HEADER)

    @router.delete("/v1/videos/{video_id:video}", responses=describe_errors(401, 403, 404))
    async def delete_video(video_id: str) -> DeletedVideo:
        """Delete a video. One that is queued or in progress is not generated any further."""
        return await context.videos.delete(video_id)

    return router


async def _answer_with_video(context: ApiContext, form: SyncForm) -> Response:
    began = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(context.sync.slot())
        request = await context.forms.read(form, context.limits.sync_seconds)
        model = {MODEL_HEADER: request.model}
        if not form.stream:
            file = await context.service.render(request)
            context.metrics.first_byte.observe(time.monotonic() - began)
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return VideoResponse(read_blocks(file), {**model, "Content-Length": str(size)}, file.close)
        parts = context.service.stream(request)
        first = await anext(parts)  # until here, an error has a status of its own
        context.metrics.first_byte.observe(time.monotonic() - began)
        deadline = began + context.limits.draw_seconds
        # The stream keeps its place until it has ended.
        return VideoResponse(with_deadline(first, parts, deadline), model, on_end=stack.pop_all().close)
