"""Routes of the page and of the study's page."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import Response

from s2v_ray.serving.context import ApiContext

FILES = {
    "/": "index.html",
    "/study": "study.html",
    "/app.js": "app.js",
    "/live.js": "live.js",
    "/worklet.js": "worklet.js",
    "/study.js": "study.js",
    "/style.css": "style.css",
}
"""Path -> file in the folder ``page``."""
MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}


def make_router(_: ApiContext) -> APIRouter:
    """The routes of ``FILES``; they are not part of the API's description."""
    router = APIRouter()
    for path, name in FILES.items():
        router.add_api_route(path, _file_endpoint(name), include_in_schema=False)
    return router


def _file_endpoint(name: str) -> Callable[[], Response]:
    def read() -> Response:
        content = (resources.files("s2v_ray.serving") / "page" / name).read_bytes()
        return Response(content, media_type=MEDIA_TYPES[name.rpartition(".")[2]])

    return read
