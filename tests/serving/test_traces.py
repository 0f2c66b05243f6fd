"""Traces of an endpoint, as a collector receives them by OTLP."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from s2v_ray.serving.traces import span
from tests.helpers import traced_endpoint
from tests.helpers.servers import listening


def collector(received: list[Any]) -> FastAPI:
    app = FastAPI(telemetry={"tracing": False})

    @app.post("/v1/traces")
    async def traces(request: Request) -> Response:
        message = ExportTraceServiceRequest()
        message.ParseFromString(await request.body())
        received.extend(s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans)
        return Response(media_type="application/x-protobuf")

    return app


def attributes(found: Any) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in found.attributes}


def test_requests_and_their_work_are_spans_of_the_callers_trace(uris: dict[str, str], tmp_path: Path) -> None:
    received: list[Any] = []
    with listening(collector(received)) as address:
        done = subprocess.run(
            [sys.executable, "-m", "tests.helpers.traced_endpoint", uris["bundle"], str(tmp_path / "videos")],
            env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": address},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
    video = done.stdout.split()[-1]
    named: dict[str, list[Any]] = {}
    for found in received:
        named.setdefault(found.name, []).append(found)
    (request,) = named["POST /v1/videos/sync"]
    assert request.trace_id.hex() == traced_endpoint.TRACE and request.parent_span_id.hex() == traced_endpoint.CALLER
    inner = [s for s in received if s.parent_span_id == request.span_id]
    assert {s.name for s in inner} == {"decode speech", "generate"}
    assert all(attributes(s)["s2v.request"] == "caller-1" for s in inner)
    (generated,) = [s for s in inner if s.name == "generate"]
    assert (attributes(generated)["s2v.frames"], attributes(generated)["s2v.size"]) == (5, 32)
    assert request.start_time_unix_nano <= generated.start_time_unix_nano < generated.end_time_unix_nano
    assert [s for s in received if "healthz" in s.name] == []
    assert len(named["GET /v1/videos/{video_id}"]) >= 2
    (job,) = [s for s in named["generate"] if attributes(s).get("s2v.video") == video]
    assert job.trace_id != request.trace_id


def test_without_a_collector_a_span_records_nothing_and_passes_errors_on() -> None:
    with pytest.raises(KeyError), span("work", field="x"):
        raise KeyError("x")
