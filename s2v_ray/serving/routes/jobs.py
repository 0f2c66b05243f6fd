"""Routes of jobs: videos that are generated in the background and fetched later."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import describe_errors
from s2v_ray.serving.forms import SentForm, check_fields
from s2v_ray.serving.jobs import ShownJob
from s2v_ray.serving.routes.videos import FORM_ERRORS, VIDEO_CONTENT
from s2v_ray.serving.streaming import SYNTHETIC_HEADER


def make_router(context: ApiContext) -> APIRouter:
    """The routes below /v1/jobs."""
    router = APIRouter()

    @router.post("/v1/jobs", status_code=202, responses=describe_errors(*FORM_ERRORS, 429))
    async def create_job(request: Request, form: SentForm) -> ShownJob:
        """Submit a job: the form of POST /v1/videos, for long speech. The video is fetched when the job is done."""
        check_fields(await request.form())
        with context.videos.slot():
            video_request = await context.forms.read(form, context.limits.job_seconds)
            return await context.jobs.submit(video_request)

    @router.get("/v1/jobs/{job}", responses=describe_errors(400, 401, 404))
    async def get_job(job: str) -> ShownJob:
        """Get state, progress, and the address of the video: a presigned URL of S3, or `/v1/jobs/{job}/video`."""
        return await context.jobs.get(job)

    @router.get(
        "/v1/jobs/{job}/video",
        response_class=Response,
        responses={200: VIDEO_CONTENT, **describe_errors(400, 401, 404, 409)},
    )
    async def get_job_video(job: str) -> Response:
        """Get the video of a job that is done."""
        url, data = await context.jobs.video(job)
        return RedirectResponse(url, 307) if url else Response(data, media_type="video/mp4", headers=SYNTHETIC_HEADER)

    @router.delete("/v1/jobs/{job}", responses=describe_errors(400, 401, 404))
    async def cancel_job(job: str) -> ShownJob:
        """Cancel a job, or remove one that is done."""
        return await context.jobs.cancel(job)

    return router
