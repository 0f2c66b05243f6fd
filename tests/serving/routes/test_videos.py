"""Videos over HTTP: answered at once, or stored and fetched later; overload."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2v_ray.inference.predictor import Predictor
from s2v_ray.media.audio import read_speech
from tests.helpers.http import assert_refused, comment_of, frames_of, make_png, post
from tests.helpers.sounds import speech, wav


def test_speech_becomes_a_tagged_mp4(client: TestClient, tmp_path: Path) -> None:
    response = post(client, speech=wav(speech(1.0)))
    assert response.status_code == 200
    assert response.headers["content-type"] == "video/mp4"
    assert response.headers["x-synthetic"] == "true"
    assert int(response.headers["content-length"]) == len(response.content)
    assert frames_of(response.content).shape == (25, 32, 32, 3)
    assert "synthetic" in comment_of(response.content)
    (tmp_path / "video.mp4").write_bytes(response.content)
    assert abs(len(read_speech(tmp_path / "video.mp4")) - 16000) <= 1024


def test_a_stream_is_the_same_video_in_fragments(client: TestClient) -> None:
    sound = wav(speech(3.0))
    whole, streamed = post(client, speech=sound), post(client, data={"stream": "true"}, speech=sound)
    assert streamed.content.count(b"moof") >= 5
    assert b"moof" not in whole.content
    assert "synthetic" in comment_of(streamed.content)
    a, b = frames_of(whole.content), frames_of(streamed.content)
    assert a.shape == b.shape == (75, 32, 32, 3)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.9  # two encodings of the same noisy frames


def test_fields_change_the_video(client: TestClient) -> None:
    sound, other, png = wav(speech(0.4)), wav(speech(0.6, seed=5)), make_png()
    plain = frames_of(post(client, speech=sound).content)
    assert np.abs(plain - frames_of(post(client, speech=sound).content)).max() == 0
    assert np.array_equal(frames_of(post(client, input_reference=sound).content), plain)
    assert len(frames_of(post(client, data={"seconds": "0.2"}, speech=sound).content)) == 5
    forms: dict[str, tuple[dict[str, str], dict[str, bytes]]] = {
        "emotion": ({"emotion": "happy"}, {}),
        "seed": ({"seed": "9"}, {}),
        "emotion_speech": ({}, {"emotion_speech": other}),
        "identity_speech": ({}, {"identity_speech": other}),
        "face": ({"aligned": "true"}, {"face": png}),
        "reference": ({"model": "reference", "aligned": "true"}, {"face": png}),
    }
    for name, (data, files) in forms.items():
        response = post(client, data=data, speech=sound, **files)
        assert response.status_code == 200, (name, response.content[:200])
        assert not np.array_equal(frames_of(response.content), plain), name


@pytest.mark.parametrize("stream", ["false", "true"])
def test_videos_are_resized(client: TestClient, stream: str) -> None:
    response = post(client, data={"size": "64x64", "stream": stream}, speech=wav(speech(0.4)))
    assert frames_of(response.content).shape == (10, 64, 64, 3)


def test_overload_is_refused_and_ends(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"sync": 2}) as small:
        sound = wav(speech(4.0))
        responses = []
        threads = [threading.Thread(target=lambda: responses.append(post(small, speech=sound))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {r.status_code for r in responses} == {200, 503}
        for response in responses:
            if response.status_code == 503:
                assert_refused(response, "busy")
                assert int(response.headers["retry-after"]) > 0
        assert post(small, speech=sound).status_code == 200


def test_a_stream_releases_its_place(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"sync": 1}) as small:
        for _ in range(3):
            assert post(small, data={"stream": "true"}, speech=wav(speech(0.4))).status_code == 200
        assert_refused(post(small, data={"stream": "true"}, speech=b"no sound"), "speech_unreadable")
        assert post(small, speech=wav(speech(0.4))).status_code == 200


def test_an_internal_error_has_a_plain_message(
    make_client: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_client() as started:
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "generate_next", lambda *_: 1 / 0)
            assert "division" not in assert_refused(post(started, speech=wav(speech(0.2))), "internal")
        assert post(started, speech=wav(speech(0.2))).status_code == 200


def test_a_slow_video_is_refused(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"draw_seconds": 0.001}) as started:
        assert "/v1/videos" in assert_refused(post(started, speech=wav(speech(2.0))), "too_slow")


def test_sound_of_a_stream_can_be_decoded(client: TestClient) -> None:
    content = post(client, data={"stream": "true"}, speech=wav(speech(1.0))).content
    with av.open(io.BytesIO(content)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 16000


# ---- stored videos


def wait(client: TestClient, video: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (found := client.get(f"/v1/videos/{video}").json())["status"] in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_a_video_is_created_fetched_and_deleted(client: TestClient) -> None:
    sound = wav(speech(6.0))  # too long for /v1/videos/sync
    data = {"emotion": "angry", "seed": "3", "prompt": "a greeting", "size": "64x64"}
    response = post(client, "/v1/videos", data=data, speech=sound)
    assert response.status_code == 200
    created = response.json()
    assert created | {"id": "", "created_at": 0, "expires_at": 0} == {
        "id": "",
        "object": "video",
        "status": "queued",
        "progress": 0,
        "model": "default",
        "prompt": "a greeting",
        "seconds": "6",
        "size": "64x64",
        "created_at": 0,
        "completed_at": None,
        "expires_at": 0,
        "error": None,
    }
    video = created["id"]
    found = wait(client, video)
    assert (found["status"], found["progress"], found["error"]) == ("completed", 100, None)
    assert found["completed_at"] >= found["created_at"]
    content = client.get(f"/v1/videos/{video}/content")
    assert content.headers["x-synthetic"] == "true"
    assert frames_of(content.content).shape == (150, 64, 64, 3)
    assert client.delete(f"/v1/videos/{video}").json() == {"id": video, "object": "video.deleted", "deleted": True}
    assert_refused(client.get(f"/v1/videos/{video}"), "unknown_video")


def test_videos_are_listed_in_pages(make_client: Callable[..., TestClient], tmp_path: Path) -> None:
    with make_client(videos=str(tmp_path)) as started:
        assert started.get("/v1/videos").json() == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }
        ids = []
        for _ in range(3):
            ids.append(post(started, "/v1/videos", speech=wav(speech(0.2))).json()["id"])
            time.sleep(0.002)  # ids sort by milliseconds
        first = started.get("/v1/videos", params={"limit": 2}).json()
        assert [video["id"] for video in first["data"]] == [ids[2], ids[1]]
        assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[2], ids[1], True)
        rest = started.get("/v1/videos", params={"limit": 2, "after": ids[1]}).json()
        assert ([video["id"] for video in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        oldest = started.get("/v1/videos", params={"order": "asc"}).json()
        assert [video["id"] for video in oldest["data"]] == ids
        for name, value in (("limit", "0"), ("order", "up"), ("after", "../x")):
            assert_refused(started.get("/v1/videos", params={name: value}), "bad_request")


def test_unknown_videos_are_refused(client: TestClient) -> None:
    for video in ("video_" + "0" * 32, "..", "%2e%2e%2fetc", "x" * 500):
        assert client.get(f"/v1/videos/{video}").json()["error"]["code"] in ("unknown_video", "not_found")
    assert_refused(client.get("/v1/videos/x/content"), "unknown_video")
    assert_refused(client.delete("/v1/videos/x"), "unknown_video")
    assert_refused(client.get("/v1/videos/x/content", params={"variant": "thumbnail"}), "bad_request")


def test_without_a_folder_no_videos_are_stored(make_client: Callable[..., TestClient]) -> None:
    with make_client() as plain:
        assert "/v1/videos/sync" in assert_refused(post(plain, "/v1/videos", speech=wav(speech(0.2))), "not_found")
        assert_refused(plain.get("/v1/videos"), "not_found")
