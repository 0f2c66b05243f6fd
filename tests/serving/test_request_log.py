"""Ids of requests: where they come from, and that records carry them."""

from __future__ import annotations

import json
import re

import pytest
from fastapi.testclient import TestClient

from s2v_ray import logs
from tests.helpers.sounds import speech, wav


def records(out: str, message: str) -> list[dict[str, str]]:
    return [line for line in map(json.loads, out.splitlines()) if re.fullmatch(message, line["message"])]


def test_the_id_of_the_caller_is_in_the_records(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    with logs.installed(logs.JsonHandler()):
        files = {"speech": ("speech.wav", wav(speech(0.2)))}
        response = client.post("/v1/videos/sync", files=files, headers={"X-Request-ID": "caller-1"})
        client.get("/v1/videos/none?secret=x", headers={"X-Request-ID": "caller-2"})
    assert response.status_code == 200 and "x-request-id" not in response.headers, "the proxy adds it"
    (first, second) = records(capsys.readouterr().out, r"(GET|POST) /v1/\S+: \d+ in [\d.]+ s")
    assert first["request"] == "caller-1" and first["message"].startswith("POST /v1/videos/sync: 200 in ")
    assert second["request"] == "caller-2" and second["message"].startswith("GET /v1/videos/none: 404 in ")


@pytest.mark.parametrize("given", [None, "two words", "x" * 129])
def test_a_request_without_a_valid_id_gets_one(
    client: TestClient, capsys: pytest.CaptureFixture[str], given: str | None
) -> None:
    with logs.installed(logs.JsonHandler()):
        response = client.get("/v1/models", headers={} if given is None else {"X-Request-ID": given})
    (record,) = records(capsys.readouterr().out, "GET /v1/models.*")
    assert re.fullmatch("[0-9a-f]{32}", record["request"])
    assert response.headers["x-request-id"] == record["request"]


def test_probes_are_not_logged(client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    with logs.installed(logs.JsonHandler()):
        client.get("/healthz")
    assert records(capsys.readouterr().out, ".*healthz.*") == []


def test_after_the_request_its_id_is_gone(client: TestClient) -> None:
    client.get("/v1/models", headers={"X-Request-ID": "caller-3"})
    assert logs.current_ids() == {}
