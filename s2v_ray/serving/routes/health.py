"""Routes for probes and monitoring."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import generate_latest

from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import describe_errors, not_ready

TEXT_CONTENT: dict[str, Any] = {"content": {"text/plain": {}}}


def make_router(context: ApiContext) -> APIRouter:
    """The routes /healthz, /readyz and /metrics."""
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Check that the process is running."""
        return {"status": "ok"}

    @router.get("/readyz", responses=describe_errors(503))
    async def readyz() -> dict[str, str]:
        """Check that the bundle is loaded and has generated a frame."""
        if not context.service.ready:
            raise not_ready()
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, responses={200: TEXT_CONTENT})
    async def metrics() -> Response:
        """Get the metrics of the replica that answers, for Prometheus."""
        text = generate_latest(context.metrics.registry)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
