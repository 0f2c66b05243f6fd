"""The study over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.user_study import REAL, REFERENCE, SCHEMA, SPEECH


@pytest.fixture
def uri(tmp_path: Path) -> str:
    items = []
    for n in range(6):
        clips = {c: f"{n}{k}.mp4" for k, c in enumerate((REAL, REFERENCE, SPEECH))}
        items.append({"clip": f"c{n}", "speaker": "s", "emotion": ("happy", "sad")[n % 2], "clips": clips})
        for name in clips.values():
            storage.write_bytes(str(tmp_path / "clips" / name), name.encode())
    fields: dict[str, Any] = {"seed": 1, "pairs": 9, "singles": 6, "emotions": ["happy", "sad"], "items": items}
    storage.write_manifest(str(tmp_path), "study", SCHEMA, config_digest="", parents={}, **fields)
    return str(tmp_path)


def test_the_study_over_http(uri: str, serve_app: Any) -> None:
    with serve_app(study=uri) as client:
        session = client.get("/v1/study").json()
        trial = session["trials"][0]
        assert client.get(f"/v1/study/clips/{trial['clips'][0]}").headers["content-type"] == "video/mp4"
        answer = {
            "participant": session["participant"],
            "trial": 0,
            "answer": "left" if trial["kind"] == "pair" else "sad",
        }
        assert client.post("/v1/study/answers", json=answer).status_code == 201
        assert client.post("/v1/study/answers", json=answer).json()["error"]["code"] == "already_answered"
        assert client.get(f"/v1/study?participant={session['participant']}").json()["answered"] == [0]
        assert client.post("/v1/study/answers", json=answer | {"path": "/etc"}).json()["error"]["code"] == "bad_request"
