"""The study over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient

from tests.helpers.http import assert_refused
from tests.helpers.studies import make_small_study


def test_trials_are_shown_and_answered_once(tmp_path: Path, make_client: Callable[..., TestClient]) -> None:
    with make_client(study=make_small_study(tmp_path)) as client:
        session = client.get("/v1/study").json()
        assert session.keys() == {"participant", "emotions", "trials", "answered"}
        trial = session["trials"][0]
        assert trial.keys() == {"trial", "kind", "clips"}
        assert client.get(f"/v1/study/clips/{trial['clips'][0]}").headers["content-type"] == "video/mp4"
        answer = {
            "participant": session["participant"],
            "trial": 0,
            "answer": "left" if trial["kind"] == "pair" else "sad",
        }
        assert client.post("/v1/study/answers", json=answer).status_code == 201
        assert_refused(client.post("/v1/study/answers", json=answer), "already_answered")
        assert client.get(f"/v1/study?participant={session['participant']}").json()["answered"] == [0]
        assert_refused(client.post("/v1/study/answers", json=answer | {"path": "/etc"}), "bad_request")


def test_an_endpoint_without_a_study(client: TestClient) -> None:
    assert_refused(client.get("/v1/study"), "not_found")
