"""The HTTP API: routes, forms, errors, and the guard before them. Knows no Ray; ``create_app`` gives an ASGI application for any server."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import inspect
import logging
import os
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from importlib import resources
from typing import IO, Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2v_ray.models.bundle import read_card
from s2v_ray.serving import intake
from s2v_ray.serving.errors import CODES, ApiError
from s2v_ray.serving.jobs import Jobs
from s2v_ray.serving.service import Gate, Order, Service
from s2v_ray.serving.settings import DEFAULT, Limits
from s2v_ray.serving.study import Answer, Study

log = logging.getLogger(__name__)

DRAIN_BYTES, DRAIN_SECONDS = 256 << 20, 5.0
"""What is still read, and thrown away, of a request that is refused: a caller who is cut off while sending does not get to read why."""
BLOCK = 256 << 10
PAGE = ("index.html", "study.html", "app.js", "study.js", "style.css")
TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; media-src 'self' blob:; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cache-Control": "no-store",
}
SYNTHETIC_HEADER = {"X-Synthetic": "true"}


class Metrics:
    """What Prometheus reads: of this process, which is one replica."""

    def __init__(self) -> None:
        own: dict[str, Any] = {"registry": CollectorRegistry()}
        self.registry = own["registry"]
        long, short = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 300), (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
        self.requests = Counter("s2v_requests", "Requests by address and status.", ["path", "status"], **own)
        self.refused = Counter("s2v_refused", "Requests that were refused, by code.", ["code"], **own)
        self.seconds = Histogram("s2v_request_seconds", "Seconds to the last byte.", ["path"], buckets=long, **own)
        self.first = Histogram(
            "s2v_first_byte_seconds", "Seconds from the whole request to the first byte of video.", buckets=short, **own
        )
        self.frames = Counter("s2v_frames", "Frames drawn.", **own)
        self.videos = Gauge("s2v_videos", "Videos being drawn.", **own)
        self.jobs = Gauge("s2v_jobs", "Jobs that wait or run.", **own)


class Api:
    """The routes of one endpoint.

    Args:
        service: the work.
        token: bearer token, or "" where none is demanded.
    """

    def __init__(self, service: Service, token: str = "") -> None:
        self.service, self.token = service, token
        self.settings, self.limits = service.settings, service.settings.limits
        self.metrics = Metrics()
        service.on_frames = self.metrics.frames.inc
        self.gate = Gate(
            self.limits.videos,
            "busy",
            f"{self.limits.videos} videos are drawn already: try again in a moment",
            retry_after=2,
        )
        self.decoders = asyncio.Semaphore(2)
        self.jobs = Jobs(service, self.settings.jobs, self.settings) if self.settings.jobs else None
        self.study = Study(self.settings.study) if self.settings.study else None
        self.metrics.videos.set_function(lambda: self.gate.inside)
        self.metrics.jobs.set_function(lambda: len(self.jobs.mine) if self.jobs else 0)

    # ---- a form becomes an order

    async def order(self, form: VideoForm, max_seconds: float) -> Order:
        """Reads and checks all that was sent."""
        if not self.service.ready:
            raise ApiError("not_ready", "the bundle is being loaded: try again in a moment", retry_after=5)
        name = form.model or DEFAULT
        if name not in self.settings.uris():
            raise ApiError("unknown_model", f"model: there is no bundle {name[:80]!r}; GET /v1/models lists them")
        if form.size and (form.size % 2 or not 16 <= form.size <= self.limits.side):
            raise ApiError("bad_request", f"size: an even number from 16 to {self.limits.side}")
        predictor = (await self.service.load(name)).predictor
        if form.emotion and form.emotion not in predictor.emotions:
            raise ApiError(
                "unknown_emotion",
                f"emotion: unknown emotion {form.emotion[:80]!r}; this bundle knows {', '.join(predictor.emotions)}",
            )
        if form.emotion and form.emotion_speech:
            raise ApiError("bad_request", "emotion: name one or send emotion_speech, not both")
        if form.face and form.identity_speech:
            raise ApiError("bad_request", "face: send a picture or identity_speech, not both")
        if predictor.reference and not form.face:
            raise ApiError("face_needed", "face: a reference bundle needs a picture of the speaker")
        async with self.decoders:
            speech = await self._speech("speech", form.speech, max_seconds)
            identity, emotion, still = None, form.emotion or None, None
            face = None
            if form.face:
                detector = None if form.aligned else self.service.detector
                face = await asyncio.to_thread(
                    intake.read_face, form.face.file, predictor.size, detector, self.limits.picture_pixels
                )
            others = [f for f in (form.identity_speech, form.emotion_speech) if f]
            heard = [
                await self._speech(
                    f"{'identity' if f is form.identity_speech else 'emotion'}_speech", f, self.limits.other_seconds
                )
                for f in others
            ]
        codes = [await self.service.hear(name, sound) for sound in heard]
        mood = codes[-1][1] if form.emotion_speech else emotion
        if form.identity_speech:
            identity = codes[0][0]
        elif face is not None and predictor.reference:
            still = face
        elif face is not None:
            identity = await self.service.see(name, face)
        return Order(speech, name, identity, mood, still, form.seed, form.size)

    async def _speech(self, name: str, upload: UploadFile, max_seconds: float) -> Any:
        return await asyncio.to_thread(intake.read_speech, name, upload.file, max_seconds, self.limits.decode_seconds)

    # ---- videos

    async def video(self, form: VideoForm) -> Response:
        """Speech in, talking face out."""
        began = time.monotonic()
        self.gate.enter()
        try:
            order = await self.order(form, self.limits.video_seconds)
            if not form.stream:
                file = await self.service.whole(order)
                self.metrics.first.observe(time.monotonic() - began)
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                return _Stream(_blocks(file), {**SYNTHETIC_HEADER, "Content-Length": str(size)}, lambda: file.close())
            parts = self.service.stream(order)
            first = await anext(parts)  # what goes wrong before it still has a status
            self.metrics.first.observe(time.monotonic() - began)
            self.gate.inside += 1  # the stream's own place, given back when it ends
            return _Stream(_chain(first, parts, began + self.limits.draw_seconds), SYNTHETIC_HEADER, self.gate.leave)
        finally:
            self.gate.leave()

    def models(self) -> list[dict[str, Any]]:
        """What GET /v1/models lists."""
        keys = ("emotions", "reference", "notice", "intended_use", "misuse", "risks", "parameters", "sha256")
        found = []
        for name, uri in self.settings.uris().items():
            card = read_card(uri, "speech2video")
            size = card["recipe"]["media"]["size"]
            faces = card["reference"] or bool(self.service.teacher and self.service.teacher.dim == card["identity_dim"])
            found.append({"name": name, "size": size, "faces": faces, **{k: card[k] for k in keys}})
        return found


class VideoForm:
    """The fields of a request for a video."""

    def __init__(
        self,
        speech: Annotated[UploadFile, File(description="Speech: WAV, FLAC, MP3, Ogg, WebM, MP4, ...")],
        identity_speech: Annotated[UploadFile | None, File(description="Show the face heard in this speech.")] = None,
        face: Annotated[
            UploadFile | None, File(description="Show the face in this JPEG or PNG (for a reference bundle: needed).")
        ] = None,
        aligned: Annotated[bool, Form(description="The picture is an aligned crop; no face is looked for.")] = False,
        emotion: Annotated[str, Form(description="Show this emotion; empty: the one heard.")] = "",
        emotion_speech: Annotated[UploadFile | None, File(description="Show the emotion heard in this speech.")] = None,
        seed: Annotated[int, Form(ge=0, lt=2**63, description="Of blinks and small movements.")] = 0,
        size: Annotated[int, Form(ge=0, description="Side of the video, pixels; 0: the bundle's own.")] = 0,
        model: Annotated[str, Form(description="Name of the bundle, of GET /v1/models.")] = "",
        stream: Annotated[bool, Form(description="Answer with fragmented MP4 while it is made.")] = False,
    ) -> None:
        self.speech, self.identity_speech, self.face, self.aligned, self.emotion = (
            speech,
            identity_speech,
            face,
            aligned,
            emotion,
        )
        self.emotion_speech, self.seed, self.size, self.model, self.stream = emotion_speech, seed, size, model, stream


def create_app(service: Service, token: str = "") -> ASGIApp:
    """The endpoint as an ASGI application. The service is started when the application is, if nobody has done so before.

    Raises:
        ArtifactError: a study is set and there is none.
    """
    api = Api(service, token)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not service.ready:
            await service.start()
        if api.jobs:
            await api.jobs.start()
        yield
        if api.jobs:
            await api.jobs.stop()

    errors: dict[int | str, dict[str, Any]] = {}
    for code, (status, meaning) in CODES.items():
        known = errors.setdefault(status, {"description": ""})
        known["description"] += f"{', ' if known['description'] else ''}`{code}`: {meaning}"
    app = FastAPI(
        title="Speech2Video", version="1", docs_url=None, redoc_url=None, lifespan=lifespan, description=_ABOUT
    )
    app.include_router(_routes(api, errors))
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)
    return Guard(app, api)


_ABOUT = (
    'Talking-face video from speech alone. Every video is synthetic and says so in its metadata. Errors are `{"error": {"code", "message"}}`. '
    "Send `serve_multiplexed_model_id: NAME` as a header beside `model=NAME` to be led to a replica that has that bundle loaded."
)


def _routes(api: Api, errors: dict[int | str, dict[str, Any]]) -> APIRouter:
    def refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
        return {s: errors[s] for s in (400, 401, *statuses)}

    routes = APIRouter()
    posted = refused(403, 404, 408, 413, 415, 422, 503, 504)

    @routes.post("/v1/videos", response_class=Response, responses={200: {"content": {"video/mp4": {}}}, **posted})
    async def make_video(request: Request, form: Annotated[VideoForm, Depends()]) -> Response:
        """Speech in, talking face out: an MP4, whole, or with `stream=true` in fragments while it is made."""
        _check_fields(await request.form())
        return await api.video(form)

    @routes.get("/v1/models", responses=refused())
    async def list_models() -> dict[str, Any]:
        """The bundles: names, emotions, sizes, what they are for and what they must not be used for; and the limits."""
        return {
            "models": await asyncio.to_thread(api.models),
            "limits": api.limits.model_dump(),
            "jobs": api.jobs is not None,
            "study": api.study is not None,
        }

    @routes.post("/v1/jobs", status_code=202, responses={**posted, 429: errors[429]})
    async def make_job(request: Request, form: Annotated[VideoForm, Depends()]) -> dict[str, Any]:
        """As POST /v1/videos, for long speech: answers at once, and the video is fetched when it is done."""
        _check_fields(await request.form())
        with api.gate():
            order = await api.order(form, api.limits.job_seconds)
            return await _jobs(api).submit(order)

    @routes.get("/v1/jobs/{job}", responses=refused(404))
    async def get_job(job: str) -> dict[str, Any]:
        """State, progress, and where the video is: a presigned address of S3, or `/v1/jobs/{job}/video`."""
        return await _jobs(api).state(job)

    @routes.get(
        "/v1/jobs/{job}/video",
        response_class=Response,
        responses={200: {"content": {"video/mp4": {}}}, **refused(404, 409)},
    )
    async def get_job_video(job: str) -> Response:
        """The video of a job that is done."""
        url, data = await _jobs(api).video(job)
        return RedirectResponse(url, 307) if url else Response(data, media_type="video/mp4", headers=SYNTHETIC_HEADER)

    @routes.delete("/v1/jobs/{job}", responses=refused(404))
    async def cancel_job(job: str) -> dict[str, Any]:
        """Cancels a job, or removes one that is done."""
        return await _jobs(api).cancel(job)

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is there."""
        return {"status": "ok"}

    @routes.get("/readyz", responses={503: errors[503]})
    async def readyz() -> dict[str, str]:
        """The bundle is loaded and has drawn a frame."""
        if not api.service.ready:
            raise ApiError("not_ready", "the bundle is being loaded: try again in a moment", retry_after=5)
        return {"status": "ready"}

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Figures of the replica that answers, for Prometheus."""
        return Response(generate_latest(api.metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/v1/study", responses=refused(404))
    async def begin_study(participant: str | None = None) -> Any:
        """A participant's questions, in an order of their own."""
        return await asyncio.to_thread(_study(api).begin, participant)

    @routes.get("/v1/study/clips/{name}", response_class=Response, responses=refused(404))
    async def get_study_clip(name: str) -> Response:
        """A clip to look at."""
        return Response(await asyncio.to_thread(_study(api).clip, name), media_type="video/mp4")

    @routes.post("/v1/study/answers", status_code=201, responses=refused(404, 409))
    async def keep_answer(answer: Answer) -> dict[str, str]:
        """Keeps an answer."""
        await asyncio.to_thread(_study(api).store_answer, answer)
        return {"status": "kept"}

    def page(name: str) -> Response:
        content = (resources.files("s2v_ray.serving") / "page" / name).read_bytes()
        return Response(content, media_type=TYPES[name.rpartition(".")[2]])

    for address, name in {
        "/": "index.html",
        "/study": "study.html",
        **{f"/{n}": n for n in PAGE if not n.endswith(".html")},
    }.items():
        routes.add_api_route(address, lambda name=name: page(name), include_in_schema=False)
    return routes


FIELDS = tuple(inspect.signature(VideoForm).parameters)


def _check_fields(sent: Iterable[str]) -> None:
    """A misspelt field is not ignored."""
    if unknown := sorted(set(sent) - set(FIELDS)):
        raise ApiError("bad_request", f"{unknown[0][:80]}: there is no such field; there are {', '.join(FIELDS)}")


def _jobs(api: Api) -> Jobs:
    if api.jobs is None:
        raise ApiError("not_found", "this endpoint takes no jobs: it was started without a folder for them")
    return api.jobs


def _study(api: Api) -> Study:
    if api.study is None:
        raise ApiError("not_found", "this endpoint has no study")
    return api.study


class _Stream(StreamingResponse):
    """Sends bytes as they come, and whatever happens calls ``done`` once."""

    def __init__(self, content: AsyncIterator[bytes], headers: Mapping[str, str], done: Any) -> None:
        super().__init__(content, headers=headers, media_type="video/mp4")
        self._content, self._done = content, done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._content):  # type: ignore[type-var]  # they are generators
                await super().__call__(scope, receive, send)
        finally:
            self._done()


async def _chain(first: bytes, rest: AsyncIterator[bytes], until: float) -> AsyncIterator[bytes]:
    async with aclosing(rest):  # type: ignore[type-var]
        yield first
        async for data in rest:
            if time.monotonic() > until:
                raise TimeoutError("a stream took longer than a request may")
            yield data


async def _blocks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while block := await asyncio.to_thread(file.read, BLOCK):
        yield block


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if not isinstance(error, ApiError):
        code = {404: "not_found", 405: "method_not_allowed", 413: "upload_too_large"}.get(
            error.status_code, "bad_request"
        )
        sentence = {
            "not_found": "there is nothing at this address",
            "method_not_allowed": "this address takes another method",
        }.get(code, str(error.detail))
        error = ApiError(code, sentence)
    request.scope["s2v.code"] = error.code
    return JSONResponse(error.body(), error.status_code, error.headers)


async def _on_fault(request: Request, error: Exception) -> Response:
    return await _on_http_error(request, ApiError("internal", "a fault of the endpoint: it has been logged"))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    field = ".".join(str(p) for p in found["loc"][1:]) or "the body"
    return await _on_http_error(
        request, ApiError("bad_request", f"{field}: {found['msg'][:1].lower()}{found['msg'][1:200]}")
    )


class Guard:
    """Stands before everything: token, origin, size and time of the request, how many are open; and counts.

    It works before a byte of the body is read, which is why it is no part of FastAPI.
    """

    def __init__(self, app: ASGIApp, api: Api) -> None:
        self.app, self.api = app, api
        limits = api.limits
        self.gate = Gate(
            limits.requests,
            "busy",
            f"{limits.requests} requests are open already: try again in a moment",
            retry_after=2,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        body = _Body(scope, receive, self.api.limits)
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if status >= 400:
                    await body.drain()
                message["headers"] = [
                    *message.get("headers", []),
                    *((k.lower().encode(), v.encode()) for k, v in HEADERS.items()),
                ]
            await send(message)

        try:
            await self._pass(scope, body, answer)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.api.metrics.requests.labels(path, str(status)).inc()
            self.api.metrics.seconds.labels(path).observe(time.monotonic() - began)
            if code := scope.get("s2v.code"):
                self.api.metrics.refused.labels(code).inc()

    async def _pass(self, scope: Scope, body: _Body, send: Send) -> None:
        started = complete = False

        async def watched(message: Message) -> None:
            nonlocal started, complete
            started = True
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            with self.gate() if scope["path"] not in ("/healthz", "/readyz", "/metrics") else contextlib.nullcontext():
                self._check(scope)
                body.check_length()
                await self.app(scope, body.receive, watched)
        except ApiError as e:
            if started:
                raise
            scope["s2v.code"] = e.code
            await JSONResponse(e.body(), e.status_code, e.headers)(scope, body.receive, watched)
        except Exception:
            if not complete:  # the answer is under way: all that is left is to cut it off
                raise
            log.exception("a fault while answering %s", scope["path"])

    def _check(self, scope: Scope) -> None:
        headers = {k: v for k, v in scope["headers"] if k in (b"authorization", b"origin", b"host")}
        if self.api.token and (scope["path"].startswith("/v1/") or scope["path"] == "/metrics"):
            expected = b"Bearer " + self.api.token.encode()
            if not hmac.compare_digest(headers.get(b"authorization", b""), expected):
                raise ApiError(
                    "unauthorized", "send the header Authorization: Bearer TOKEN with the token of this endpoint"
                )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if (
            origin
            and scope["method"] not in ("GET", "HEAD")
            and urlsplit(origin).netloc != headers.get(b"host", b"").decode("latin-1")
        ):
            raise ApiError("foreign_origin", "requests from pages of other sites are not taken")


class _Body:
    """The body of a request as it arrives, within limits."""

    def __init__(self, scope: Scope, receive: Receive, limits: Limits) -> None:
        self._receive, self._limit, self._until = (
            receive,
            limits.upload_mb << 20,
            time.monotonic() + limits.body_seconds,
        )
        self._seconds, self._mb = limits.body_seconds, limits.upload_mb
        self._length = dict(scope["headers"]).get(b"content-length", b"")
        self.read, self.complete = 0, scope["method"] in ("GET", "HEAD")
        self._drained = False

    def check_length(self) -> None:
        """Refuses what says itself that it is too large."""
        if self._length.isdigit() and int(self._length) > self._limit:
            raise self._too_large()

    async def receive(self) -> Message:
        if self.complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._until - time.monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise ApiError("upload_too_slow", f"the request did not arrive within {self._seconds:g} s") from None
        self._count(message)
        if self.read > self._limit:
            raise self._too_large()
        return message

    def _count(self, message: Message) -> None:
        self.read += len(message.get("body", b""))
        self.complete = message["type"] == "http.disconnect" or not message.get("more_body", False)

    def _too_large(self) -> ApiError:
        return ApiError(
            "upload_too_large", f"the request has more than {self._mb} MiB: send the speech compressed, or less of it"
        )

    async def drain(self) -> None:
        """Reads on and throws away, for a while."""
        if self.complete or self._drained:
            return
        self._drained = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self.complete and self.read < self._limit + DRAIN_BYTES:
                    self._count(await self._receive())


def read_token(variable: str) -> str:
    """The token of the environment variable; "" where no variable is named.

    Raises:
        ValueError: the variable is not set, or holds hardly a secret.
    """
    if not variable:
        return ""
    token = os.environ.get(variable, "")
    if len(token) < 16:
        raise ValueError(
            f"{variable} must hold the bearer token, of at least 16 characters: set it, for instance to the output of `openssl rand -hex 32`"
        )
    return token
