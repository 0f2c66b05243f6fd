"""The routes of the HTTP API, one router for each group."""

from __future__ import annotations

from fastapi import FastAPI

from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.routes import health, live, models, page, study, videos

GROUPS = (videos, models, live, health, study, page)


def include_routes(app: FastAPI, context: ApiContext) -> None:
    """Adds all routes to an application."""
    for group in GROUPS:
        app.include_router(group.make_router(context))
