"""The application as a whole: errors of the framework, the description of the API, start and end."""

from __future__ import annotations

import threading
from collections.abc import Callable

from fastapi.testclient import TestClient

from tests.helpers.http import assert_refused, post
from tests.helpers.sounds import speech, wav


def test_the_api_is_described(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert {"/v1/videos", "/v1/videos/sync", "/v1/videos/{video_id}", "/v1/models"} <= described["paths"].keys()
    assert "/study" not in described["paths"], "pages are not part of the API"
    assert "busy" in described["paths"]["/v1/videos/sync"]["post"]["responses"]["503"]["description"]


def test_malformed_requests_have_a_code_and_a_message(client: TestClient) -> None:
    assert_refused(client.post("/v1/videos"), "bad_request")
    assert_refused(client.post("/v1/videos", json={"speech": "file:///etc/passwd"}), "bad_request")
    assert_refused(client.post("/v1/videos", data={"speech": "/etc/passwd"}), "bad_request")
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert_refused(client.post("/v1/videos", content=b"--x\r\ngarbage", headers=headers), "bad_request")
    assert_refused(client.get("/v1/models/x"), "not_found")
    assert_refused(client.get("/v1/nothing"), "not_found")


def test_a_refused_method_is_answered_with_all_allowed_ones(client: TestClient) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/videos", "GET, POST"),
        ("TRACE", "/v1/videos/x", "DELETE, GET"),
        ("POST", "/healthz", "GET"),
    ):
        response = client.request(method, path)
        assert_refused(response, "method_not_allowed")
        assert response.headers["allow"] == allowed


def test_no_thread_of_a_model_outlives_the_application(make_client: Callable[..., TestClient]) -> None:
    """A thread that still computes when the interpreter ends can crash the process."""
    before = set(threading.enumerate())
    with make_client() as client:
        post(client, speech=wav(speech(0.2)))
        assert any(thread.name == "generate" for thread in set(threading.enumerate()) - before)
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "generate"]
