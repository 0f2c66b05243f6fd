"""OpenTelemetry traces: a span for each request by FastAPI, and spans of the work for it.

They are exported where the environment names a collector (``OTEL_EXPORTER_OTLP_ENDPOINT`` or
``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, protocol http/protobuf); otherwise none is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from s2v_ray import logs

_tracer = trace.get_tracer(logs.PACKAGE)


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """Records a span of work for the current request; it is the parent of no other.

    It may be open in an asynchronous generator, which is resumed in other contexts: so it does not become the current
    one.

    Args:
        name: what is done.
        attributes: recorded as ``s2v.NAME``, beside the ids of the current log records (request, ...).
    """
    named = {f"s2v.{key}": value for key, value in {**logs.current_ids(), **attributes}.items()}
    started = _tracer.start_span(name, attributes=named)
    try:
        yield
    except Exception as e:
        started.set_status(Status(StatusCode.ERROR, type(e).__name__))
        raise
    finally:
        started.end()
