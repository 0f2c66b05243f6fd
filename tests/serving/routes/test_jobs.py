"""Jobs over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from tests.helpers.http import assert_refused, frames_of, post
from tests.helpers.sounds import speech, wav


def wait(client: TestClient, job: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (state := client.get(f"/v1/jobs/{job}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return state


def test_a_job_is_submitted_and_fetched(client: TestClient) -> None:
    sound = wav(speech(6.0))  # too long for /v1/videos
    response = post(client, "/v1/jobs", data={"emotion": "angry", "seed": "3"}, speech=sound)
    assert response.status_code == 202
    submitted = response.json()
    assert submitted.keys() == {
        "id",
        "state",
        "progress",
        "frames",
        "created",
        "updated",
        "error",
        "expires",
        "result",
    }
    assert (submitted["state"], submitted["frames"], submitted["result"]) == ("queued", 150, None)
    job = submitted["id"]
    state = wait(client, job)
    assert (state["state"], state["progress"], state["error"]) == ("done", 1.0, None)
    video = client.get(state["result"])
    assert video.headers["x-synthetic"] == "true"
    assert frames_of(video.content).shape == (150, 32, 32, 3)
    assert client.delete(f"/v1/jobs/{job}").status_code == 200
    assert_refused(client.get(f"/v1/jobs/{job}"), "unknown_job")


def test_unknown_jobs_are_refused(client: TestClient) -> None:
    for job in ("0" * 32, "..", "%2e%2e%2fetc", "x" * 500):
        assert client.get(f"/v1/jobs/{job}").json()["error"]["code"] in ("unknown_job", "not_found")
    assert_refused(client.get("/v1/jobs/" + "0" * 32 + "/video"), "unknown_job")


def test_without_a_folder_there_are_no_jobs(make_client: Callable[..., TestClient]) -> None:
    with make_client() as plain:
        assert_refused(post(plain, "/v1/jobs", speech=wav(speech(0.2))), "not_found")
