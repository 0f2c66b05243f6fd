"""The route of live sessions."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from s2v_ray.serving.context import ApiContext


def make_router(context: ApiContext) -> APIRouter:
    """The route WS /v1/live."""
    router = APIRouter()

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        """Open a live session: audio in, frames out while a person speaks."""
        await context.live.serve(socket)

    return router
