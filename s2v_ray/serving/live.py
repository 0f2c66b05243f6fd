"""Live sessions over WebSocket: admission, the dialogue with one client, and the end of all sessions of a replica."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from s2v_ray.inference.live import LiveFrame, LiveRequest, LiveSession
from s2v_ray.media.pcm import BYTES_PER_SAMPLE, PcmDecoder
from s2v_ray.media.timing import FPS, SAMPLE_RATE
from s2v_ray.media.video import SYNTHETIC
from s2v_ray.serving.batching import Batcher
from s2v_ray.serving.concurrency import ConcurrencyLimit
from s2v_ray.serving.errors import ApiError, not_ready
from s2v_ray.serving.forms import FormReader, choose_bundle, validate_for_bundle
from s2v_ray.serving.live_outbox import WINDOW_FRAMES, Outbox
from s2v_ray.serving.live_pool import Delivery, LiveStream
from s2v_ray.serving.live_protocol import (
    MAX_CHUNK_BYTES,
    NORMAL_CLOSURE,
    Ack,
    Gap,
    Hello,
    close_code,
    error_event,
    pack_frame,
    parse_hello,
    parse_message,
)
from s2v_ray.serving.metrics import Metrics
from s2v_ray.serving.service import Service

AHEAD_SECONDS = 10.0
"""Audio that a client may send ahead of time, for example after a connection that stood still."""
MAX_BACKLOG_FRAMES = FPS
"""Frames that wait to be generated; older ones are skipped."""
STATISTICS_SECONDS = 5.0
"""Time between two events with statistics."""
SEND_SECONDS = 30.0
"""Longest time to send one message; then the connection is dropped."""

logger = logging.getLogger(__name__)


class LiveSessions:
    """The live sessions of a replica.

    Args:
        service: the work of the endpoint.
        forms: reads what a session shows.
        metrics: metrics of the endpoint.
        token: bearer token, or "" if none is required.

    Attributes:
        limit: limit of the sessions at a time.
    """

    def __init__(self, service: Service, forms: FormReader, metrics: Metrics, token: str) -> None:
        self.service, self.forms, self.metrics, self.token = service, forms, metrics, token
        self.settings, self.limits = service.settings, service.settings.limits
        self.limit = ConcurrencyLimit(
            0,  # until the service has measured its capacity
            "too_many_sessions",
            "{limit} live sessions are open already: connect again later",
            retry_after=5,
        )
        self._open: set[LiveConnection] = set()
        self._stopping = False
        metrics.live.set_function(lambda: self.limit.active)
        metrics.live_limit.set_function(lambda: self.limit.limit)

    async def serve(self, socket: WebSocket) -> None:
        """Serves one connection until it is closed."""
        connection = LiveConnection(self, socket)
        self._open.add(connection)
        try:
            if self._stopping:
                connection.fail(_stopping())
            await connection.run()
        finally:
            self._open.discard(connection)

    def stop(self) -> None:
        """Ends all sessions with a code after which clients connect again."""
        self._stopping = True
        for connection in self._open:
            connection.fail(_stopping())


class LiveConnection:
    """One client.

    Args:
        sessions: the sessions of the replica.
        socket: the connection, not accepted yet.
    """

    def __init__(self, sessions: LiveSessions, socket: WebSocket) -> None:
        self.sessions, self.limits, self._socket = sessions, sessions.limits, socket
        self._outbox = Outbox()
        self._model = ""
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._began = self._last_audio = time.monotonic()
        self._seconds = 0.0  # of received audio

    def fail(self, error: Exception) -> None:
        """Ends the session with an error."""
        if not self._failed.done():
            self._failed.set_exception(error)

    async def run(self) -> None:
        """Accepts the connection and serves it until it is closed."""
        await self._socket.accept()
        try:
            await self._until_failure(self._dialogue())
        except WebSocketDisconnect:
            return
        except TimeoutError:
            logger.info("a live session is dropped: its client reads nothing")
            return
        except ApiError as error:
            await self._close_with(error)
        except Exception:
            logger.exception("an error of a live session")
            await self._close_with(ApiError("internal", "an internal error of the endpoint, which has been logged"))

    async def _until_failure(self, work: Any) -> None:
        """Runs ``work`` until it returns, or until ``fail`` is called."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task, self._failed], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            else:
                self._failed.result()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task
            if self._failed.done():
                self._failed.exception()  # marks it as retrieved

    async def _dialogue(self) -> None:
        hello = await self._receive_hello()
        self._authorise(hello)
        if not self.sessions.service.ready:
            raise not_ready()
        with self.sessions.limit.slot():
            batcher, session = await self._open_session(hello)
            stream = LiveStream(session, lambda item: self._on_delivery(item, session))
            batcher.live.add(stream)
            try:
                await self._exchange(hello, batcher, stream)
            finally:
                batcher.live.remove(stream)
                self._count(session)

    async def _receive_hello(self) -> Hello:
        message = await self._receive(self.limits.live_idle_seconds)
        text = message.get("text")
        if text is None:
            raise ApiError("bad_request", "hello: the first message must be a hello in JSON, not audio")
        if len(text) > self.limits.upload_mb << 20:
            raise ApiError("upload_too_large", f"hello: has more than {self.limits.upload_mb} MiB")
        return parse_hello(text)

    def _authorise(self, hello: Hello) -> None:
        expected = self.sessions.token
        header = self._socket.headers.get("authorization", "").removeprefix("Bearer ")
        given = (hello.token or header).encode()
        if expected and not hmac.compare_digest(given, expected.encode()):
            raise ApiError("unauthorized", "token: send the token of this endpoint in the hello")

    async def _open_session(self, hello: Hello) -> tuple[Batcher, LiveSession]:
        form = hello.form()
        name = choose_bundle(hello.model, self.sessions.settings)
        self._model = name
        batcher = await self.sessions.service.bundles.load(name)
        predictor = batcher.predictor
        if predictor.reference:
            raise ApiError("bad_request", "model: a reference bundle has no live sessions")
        validate_for_bundle(form, predictor.emotions, predictor.reference)
        shown = await self.sessions.forms.appearance(form, name, predictor)
        request = LiveRequest(shown.identity, shown.emotion, shown.take, hello.seed, MAX_BACKLOG_FRAMES)
        session = await batcher.run(lambda: LiveSession(predictor, request))
        self._outbox.add_event(
            {
                "type": "started",
                "size": predictor.size,
                "fps": FPS,
                "window": WINDOW_FRAMES,
                "look_ahead": predictor.model.student.future_frames / FPS,
                "emotions": list(predictor.emotions),
                "synthetic": SYNTHETIC["comment"],
            }
        )
        return batcher, session

    async def _exchange(self, hello: Hello, batcher: Batcher, stream: LiveStream) -> None:
        """Receives audio, sends frames and reports statistics until the last frame is sent."""
        self._began = self._last_audio = time.monotonic()
        tasks = [
            asyncio.create_task(self._send(hello, stream.session)),
            asyncio.create_task(self._listen(hello, batcher, stream)),
            asyncio.create_task(self._report(stream.session)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, hello: Hello, batcher: Batcher, stream: LiveStream) -> None:
        """Handles the client's messages. Returns never: the sender ends the session."""
        decoder, ended = PcmDecoder(hello.sample_rate), False
        while True:
            left = self._last_audio + self.limits.live_idle_seconds - time.monotonic()
            message = await self._receive(None if ended else max(0.0, left))
            if (text := message.get("text")) is not None:
                parsed = parse_message(text)
                if isinstance(parsed, Ack):
                    self._outbox.acknowledge(parsed.frame)
                    continue
                if ended:
                    raise ApiError("bad_request", f"{parsed.type}: the audio has ended already")
                if isinstance(parsed, Gap):
                    self._admit(parsed.samples / hello.sample_rate, stream.session)
                    batcher.live.push(stream, decoder.silence(parsed.samples), lost=True)
                    continue
                batcher.live.push(stream, decoder.close())
                batcher.live.finish(stream)
                ended = True
                continue
            data = message.get("bytes") or b""
            if ended or len(data) > MAX_CHUNK_BYTES:
                reason = "the audio has ended already" if ended else f"a chunk has more than {MAX_CHUNK_BYTES} bytes"
                raise ApiError("bad_request", f"audio: {reason}")
            self._admit(len(data) / BYTES_PER_SAMPLE / hello.sample_rate, stream.session)
            if len(samples := decoder.decode(data)):
                batcher.live.push(stream, samples)

    def _admit(self, seconds: float, session: LiveSession) -> None:
        """Counts received audio.

        Raises:
            ApiError: audio_too_fast, session_too_long, busy.
        """
        if seconds > 0:
            self._last_audio = time.monotonic()
        self._seconds += seconds
        elapsed = time.monotonic() - self._began
        if self._seconds > elapsed + AHEAD_SECONDS:
            raise ApiError("audio_too_fast", f"audio: more than {AHEAD_SECONDS:g} s ahead of time: send it as spoken")
        if elapsed > self.limits.live_seconds:
            raise ApiError("session_too_long", f"the session took longer than {self.limits.live_seconds:g} s")
        if session.pending > AHEAD_SECONDS * FPS:
            raise ApiError("busy", "the replica cannot keep up with the audio: connect again later")

    async def _send(self, hello: Hello, session: LiveSession) -> None:
        async for message in self._outbox.messages():
            async with asyncio.timeout(SEND_SECONDS):
                if isinstance(message, LiveFrame):
                    await self._socket.send_bytes(pack_frame(message, hello))
                else:
                    await self._socket.send_text(json.dumps(message))
        await self._socket.send_text(json.dumps({**self._statistics(session), "type": "ended"}))
        await self._socket.close(NORMAL_CLOSURE)

    async def _report(self, session: LiveSession) -> None:
        skipped = lost = 0
        while True:
            await asyncio.sleep(STATISTICS_SECONDS)
            found = self._statistics(session)
            self._outbox.add_event(found)
            if found["skipped"] > skipped:
                self._warn("frames_skipped", f"{found['skipped'] - skipped} frames were skipped")
            if session.lost > lost:
                self._warn("audio_lost", f"{(session.lost - lost) / SAMPLE_RATE:.2f} s of audio were lost")
            skipped, lost = found["skipped"], session.lost

    def _warn(self, code: str, message: str) -> None:
        self._outbox.add_event({"type": "warning", "code": code, "message": message})

    def _statistics(self, session: LiveSession) -> dict[str, Any]:
        return {
            "type": "statistics",
            "seconds": round(session.received / SAMPLE_RATE, 3),
            "lost_seconds": round(session.lost / SAMPLE_RATE, 3),
            "sent": self._outbox.sent,
            "skipped": session.skipped + self._outbox.skipped,
        }

    def _on_delivery(self, item: Delivery, session: LiveSession) -> None:
        if isinstance(item, Exception):
            self.fail(item)
        elif item is None:
            self._outbox.close()
        else:
            self.sessions.metrics.frames.labels(self._model).inc(len(item))
            self._outbox.add_frames(item)
            for update in session.code_updates:
                shares = update.codes.emotion_logits.softmax(0).tolist()
                emotion = dict(zip(session.predictor.emotions, (round(s, 3) for s in shares), strict=True))
                voiced = round(update.voiced / FPS, 2)
                self._outbox.add_event(
                    {"type": "codes", "frame": update.frame, "voiced_seconds": voiced, "emotion": emotion}
                )

    def _count(self, session: LiveSession) -> None:
        self.sessions.metrics.live_skipped.inc(session.skipped + self._outbox.skipped)
        self.sessions.metrics.live_lost.inc(session.lost / SAMPLE_RATE)

    async def _receive(self, seconds: float | None) -> dict[str, Any]:
        """The next message of the client.

        Raises:
            ApiError: session_idle.
            WebSocketDisconnect: the client has left.
        """
        try:
            async with asyncio.timeout(seconds):
                message = dict(await self._socket.receive())
        except TimeoutError:
            idle = self.limits.live_idle_seconds
            raise ApiError("session_idle", f"nothing was received for {idle:g} s") from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        return message

    async def _close_with(self, error: ApiError) -> None:
        self.sessions.metrics.refused.labels(error.code).inc()
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_text(json.dumps(error_event(error)))
                await self._socket.close(close_code(error), error.code)


def _stopping() -> ApiError:
    return ApiError("stopping", "the replica stops: connect again")
