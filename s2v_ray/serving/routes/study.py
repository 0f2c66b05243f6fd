"""Routes of the user study."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response

from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import describe_errors
from s2v_ray.serving.study import Answer, Session


def make_router(context: ApiContext) -> APIRouter:
    """The routes below /v1/study."""
    router = APIRouter()

    @router.get("/v1/study", responses=describe_errors(400, 401, 404))
    async def begin_study(participant: str | None = None) -> Session:
        """Get the trials of a participant, in an order of their own, and which of them have an answer."""
        return await asyncio.to_thread(context.study.begin, participant)

    @router.get("/v1/study/clips/{name}", response_class=Response, responses=describe_errors(400, 401, 404))
    async def get_study_clip(name: str) -> Response:
        """Get a clip."""
        return Response(await asyncio.to_thread(context.study.clip, name), media_type="video/mp4")

    @router.post("/v1/study/answers", status_code=201, responses=describe_errors(400, 401, 404, 409))
    async def store_answer(answer: Answer) -> dict[str, str]:
        """Store an answer."""
        await asyncio.to_thread(context.study.store_answer, answer)
        return {"status": "kept"}

    return router
