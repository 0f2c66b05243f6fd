"""Probes and metrics."""

from __future__ import annotations

from collections.abc import Callable

from fastapi.testclient import TestClient

from tests.helpers.http import assert_refused, post
from tests.helpers.sounds import speech, wav


def test_probes_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert 's2v_requests_total{path="/healthz",status="200"}' in client.get("/metrics").text


def test_an_endpoint_that_is_not_started_is_not_ready(make_client: Callable[..., TestClient]) -> None:
    client = make_client()  # without its context, the application is not started
    assert client.get("/healthz").status_code == 200
    for response in (client.get("/readyz"), post(client, speech=wav(speech(0.2)))):
        assert_refused(response, "not_ready")
        assert response.headers["retry-after"] == "5"


def test_generated_frames_are_counted(make_client: Callable[..., TestClient]) -> None:
    with make_client() as client:
        post(client, speech=wav(speech(1.0)))
        post(client, speech=b"no sound")
        text = client.get("/metrics").text
    assert 's2v_frames_total{model="default"} 25.0' in text
    assert 's2v_refused_total{code="speech_unreadable"} 1.0' in text
    assert 's2v_requests_total{path="/v1/videos/sync",status="200"} 1.0' in text
    assert "s2v_first_byte_seconds_count 1.0" in text
    assert "s2v_sync 0.0" in text
