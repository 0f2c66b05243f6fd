"""The HTTP API as an ASGI application for any server, without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp

from s2v_ray.serving.context import ApiContext
from s2v_ray.serving.errors import OTHER_ERRORS, ApiError
from s2v_ray.serving.forms import SHOWN_CHARACTERS
from s2v_ray.serving.guard import ERROR_CODE, UNLIMITED_PATHS, Guard
from s2v_ray.serving.request_log import RequestLog
from s2v_ray.serving.routes import include_routes
from s2v_ray.serving.service import Service

DESCRIPTION = (
    "Talking-face video from speech alone. Every video is synthetic, and its metadata say so. "
    'Errors are `{"error": {"code", "message"}}`. Send the header `serve_multiplexed_model_id: NAME` together with '
    "`model=NAME`, so that the request goes to a replica that has that bundle loaded."
)
HTTP_ERRORS = {
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address takes another method"),
    413: ("upload_too_large", None),
}
"""Status of Starlette's own errors -> code, and message if it is not that of the error."""
TELEMETRY: TelemetryConfig = {
    "auto_configure": True,
    "metrics": False,  # those of the endpoint are Prometheus's
    "logs": False,
    "operation_spans": False,
    "exclude": lambda scope: scope["path"] in UNLIMITED_PATHS,
}
"""Spans of all requests but those of probes; see ``traces``."""
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


def create_app(service: Service, token: str = "") -> ASGIApp:
    """Creates the ASGI application of an endpoint. The service is started with the application, if it is not before.

    Args:
        service: the work of the endpoint.
        token: bearer token, or "" if none is required.

    Raises:
        ArtifactError: the settings name a study that does not exist.
    """
    context = ApiContext(service, token)
    return RequestLog(Guard(make_api(context), context))


def make_api(context: ApiContext) -> FastAPI:
    """Creates the routes, their error handlers and the OpenAPI document of an endpoint, without the guard."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await context.start()
        yield
        await context.stop()

    app = FastAPI(
        title="Speech2Video",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        telemetry=TELEMETRY,
        description=DESCRIPTION,
        responses=OTHER_ERRORS,
        generate_unique_id_function=lambda route: route.name,  # links between operations refer to these names
    )
    include_routes(app, context)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(Exception, _on_internal_error)
    return app


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "the handler is registered for this type"
    if isinstance(error, ApiError):
        return _respond(request, error)
    code, message = HTTP_ERRORS.get(error.status_code, ("bad_request", None))
    headers = {"Allow": _allowed_methods(request)} if error.status_code == 405 else None
    return _respond(request, ApiError(code, message or str(error.detail), headers=headers))


def _allowed_methods(request: Request) -> str:
    """The methods of all routes at the address of a request: Starlette names those of the first route only."""
    scopes = [{**request.scope, "method": method} for method in METHODS]
    routes = request.app.routes
    return ", ".join(s["method"] for s in scopes if any(route.matches(s)[0] == Match.FULL for route in routes))


async def _on_internal_error(request: Request, _: Exception) -> Response:
    return _respond(request, ApiError("internal", "an internal error of the endpoint, which has been logged"))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "the handler is registered for this type"
    found = error.errors()[0]
    field = ".".join(str(part) for part in found["loc"][1:]) or "the body"
    problem = f"{found['msg'][:1].lower()}{found['msg'][1:200]}"
    if found["type"] == "extra_forbidden":
        problem = "there is no such field; /openapi.json lists all"
    return _respond(request, ApiError("bad_request", f"{field[:SHOWN_CHARACTERS]}: {problem}"))


def _respond(request: Request, error: ApiError) -> Response:
    request.scope[ERROR_CODE] = error.code
    return JSONResponse(error.body(), error.status_code, error.headers)
