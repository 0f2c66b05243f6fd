"""What a caller gets: videos, and for what cannot be used one code and one sentence."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2v_ray.media.audio import read_speech
from s2v_ray.media.video import read_video
from s2v_ray.serving.api import read_token
from s2v_ray.serving.errors import CODES
from tests.helpers.sounds import speech, wav


def post(client: TestClient, path: str = "/v1/videos", /, data: dict[str, str] | None = None, **files: bytes) -> Any:
    return client.post(path, data=data or {}, files={name: ("upload", content) for name, content in files.items()})


def refused(answer: Any, code: str) -> str:
    assert answer.headers["content-type"] == "application/json", answer.content[:200]
    error = answer.json()["error"]
    assert (error["code"], answer.status_code) == (code, CODES[code][0]), error
    assert error["message"] and "\n" not in error["message"] and "Traceback" not in error["message"]
    return error["message"]


def frames(content: bytes, folder: Path) -> np.ndarray:
    (folder / "answer.mp4").write_bytes(content)
    return read_video(folder / "answer.mp4").frames.astype(int)


def picture(size: int = 40) -> bytes:
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8))[
        1
    ].tobytes()


# ---- videos


def test_speech_becomes_a_tagged_mp4(client: TestClient, tmp_path: Path) -> None:
    answer = post(client, speech=wav(speech(1.0)))
    assert answer.status_code == 200 and answer.headers["content-type"] == "video/mp4"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert frames(answer.content, tmp_path).shape == (25, 32, 32, 3)
    assert abs(len(read_speech(tmp_path / "answer.mp4")) - 16000) <= 1024
    with av.open(io.BytesIO(answer.content)) as container:
        assert "synthetic" in container.metadata["comment"]


def test_a_stream_is_the_same_video_in_fragments(client: TestClient, tmp_path: Path) -> None:
    sound = wav(speech(3.0))
    whole, streamed = post(client, speech=sound), post(client, data={"stream": "true"}, speech=sound)
    assert streamed.content.count(b"moof") >= 5 and b"moof" not in whole.content
    with av.open(io.BytesIO(streamed.content)) as container:
        assert "synthetic" in container.metadata["comment"]
    a, b = frames(whole.content, tmp_path), frames(streamed.content, tmp_path)
    assert a.shape == b.shape == (75, 32, 32, 3)
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.95  # two encodings of the same frames


def test_sound_and_picture_of_a_stream_are_in_step(tmp_path: Path) -> None:
    from s2v_ray.media.video import FragmentedMp4

    bright = np.zeros((50, 32, 32, 3), np.uint8)
    bright[20:22] = 255  # at 0.8 s
    sound = np.zeros(50 * 640, np.float32)
    sound[12800:13440] = 0.8 * np.sin(np.arange(640) * 0.4)
    stream = FragmentedMp4()
    data = (
        b"".join(stream.add(bright[i : i + 10], sound[i * 640 : (i + 10) * 640]) for i in range(0, 50, 10))
        + stream.close()
    )
    (tmp_path / "made.mp4").write_bytes(data)
    video = read_video(tmp_path / "made.mp4")
    flash = video.times[np.argmax(video.frames.mean((1, 2, 3)))]
    assert video.audio is not None
    heard = video.audio.start + np.argmax(np.abs(video.speech) > 0.2) / 16000
    assert flash == pytest.approx(heard, abs=0.02)


def test_options_change_the_face(client: TestClient, tmp_path: Path) -> None:
    sound, other = wav(speech(0.4)), wav(speech(0.6, seed=5))
    plain = frames(post(client, speech=sound).content, tmp_path)
    assert np.abs(plain - frames(post(client, speech=sound).content, tmp_path)).max() == 0
    png = picture()
    asked: dict[str, tuple[dict[str, str], dict[str, bytes]]] = {
        "emotion": ({"emotion": "happy"}, {}),
        "seed": ({"seed": "9"}, {}),
        "emotion_speech": ({}, {"emotion_speech": other}),
        "identity_speech": ({}, {"identity_speech": other}),
        "face": ({"aligned": "true"}, {"face": png}),
        "reference": ({"model": "reference", "aligned": "true"}, {"face": png}),
    }
    for name, (data, files) in asked.items():
        answer = post(client, data=data, speech=sound, **files)
        assert answer.status_code == 200, (name, answer.content[:200])
        assert not np.array_equal(frames(answer.content, tmp_path), plain), name
    assert frames(post(client, data={"size": "64"}, speech=sound).content, tmp_path).shape == (10, 64, 64, 3)


def test_models_are_listed_with_what_they_must_not_be_used_for(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    assert [(m["name"], m["reference"], m["faces"]) for m in found["models"]] == [
        ("default", False, True),
        ("reference", True, True),
    ]
    assert found["models"][0]["emotions"] == ["neutral", "happy", "angry"] and found["models"][0]["misuse"]
    assert found["limits"]["video_seconds"] == 5


def test_health_metrics_and_openapi(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    assert 's2v_requests_total{path="/healthz",status="200"}' in client.get("/metrics").text
    described = client.get("/openapi.json").json()
    assert {"/v1/videos", "/v1/jobs", "/v1/jobs/{job}", "/v1/models"} <= described["paths"].keys()
    assert "busy" in described["paths"]["/v1/videos"]["post"]["responses"]["503"]["description"]


@pytest.mark.parametrize("address", ["/", "/study", "/app.js", "/study.js", "/style.css"])
def test_the_page_comes_whole_and_loads_nothing_from_elsewhere(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code == 200 and len(answer.text) > 500
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "http://" not in answer.text and "https://" not in answer.text.replace("https:// and", "")


# ---- what is refused

BAD_UPLOADS = {
    "empty": b"",
    "text": b"this is not sound " * 100,
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
    "picture": picture(),
    "pickle": b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_what_is_no_speech(client: TestClient, name: str) -> None:
    refused(post(client, speech=BAD_UPLOADS[name]), "speech_unreadable")


@pytest.mark.parametrize(
    ("data", "code", "sentence"),
    [
        ({"emotion": "bored"}, "unknown_emotion", "neutral, happy, angry"),
        ({"model": "../../etc"}, "unknown_model", "GET /v1/models"),
        ({"model": "reference"}, "face_needed", "needs a picture"),
        ({"seed": "-1"}, "bad_request", "seed: "),
        ({"seed": "1e99"}, "bad_request", "seed: "),
        ({"size": "33"}, "bad_request", "size: an even number from 16 to 512"),
        ({"emotoin": "happy"}, "bad_request", "emotoin: there is no such field"),
    ],
)
def test_options_that_cannot_be_used(client: TestClient, data: dict[str, str], code: str, sentence: str) -> None:
    assert sentence in refused(post(client, data=data, speech=wav(speech(0.2))), code)


def test_sound_in_an_unknown_codec(client: TestClient) -> None:
    sound = bytearray(wav(speech(0.5)))
    sound[20:22] = b"\x34\x12"  # the format tag of the WAV
    refused(post(client, speech=bytes(sound)), "speech_unreadable")


def test_speech_that_is_too_short_or_too_long(client: TestClient) -> None:
    refused(post(client, speech=wav(speech(0.01))), "speech_too_short")
    assert "5 s" in refused(post(client, speech=wav(speech(6.0))), "speech_too_long")


def test_a_bomb_of_silence_is_stopped_by_its_decoded_length(client: TestClient) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=8000, layout="mono", format="s16")
        for i in range(600):  # ten minutes in some kilobytes
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 8000, i * 8000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert len(out.getvalue()) < 200_000
    began = time.monotonic()
    refused(post(client, speech=out.getvalue()), "speech_too_long")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("rate", [1, 16001, 44101, 1_000_000])
def test_a_sample_rate_that_would_take_gigabytes(client: TestClient, rate: int) -> None:
    assert "not supported" in refused(post(client, speech=wav(speech(0.5), rate)), "speech_unreadable")


def test_pictures_that_cannot_be_used(client: TestClient) -> None:
    sound = wav(speech(0.2))
    png = picture()
    huge = png[:16] + (60_000).to_bytes(4, "big") * 2 + png[24:]
    jpeg = cv2.imencode(".jpg", np.zeros((20, 20, 3), np.uint8))[1].tobytes()
    assert "60000 x 60000" in refused(post(client, speech=sound, face=huge), "picture_too_large")
    for bad in (b"", b"GIF89a" + bytes(50), png[:60], jpeg[:30], jpeg[:2] + b"\xff\xda" * 100 + jpeg[2:]):
        refused(post(client, speech=sound, face=bad), "picture_unreadable")
    refused(post(client, speech=sound, face=png), "not_one_face")


def test_contradictions(client: TestClient) -> None:
    sound = wav(speech(0.2))
    refused(post(client, speech=sound, face=picture(), identity_speech=sound), "bad_request")
    refused(post(client, data={"emotion": "happy"}, speech=sound, emotion_speech=sound), "bad_request")


def test_an_upload_beyond_the_limit(client: TestClient) -> None:
    refused(post(client, speech=bytes(2 << 20)), "upload_too_large")  # by its Content-Length

    def endless():
        for _ in range(40):
            yield bytes(64 << 10)

    answer = client.post("/v1/videos", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    refused(answer, "upload_too_large") if answer.json()["error"]["code"] != "bad_request" else None


def test_forms_that_are_none(client: TestClient) -> None:
    refused(client.post("/v1/videos"), "bad_request")
    refused(client.post("/v1/videos", json={"speech": "file:///etc/passwd"}), "bad_request")
    refused(client.post("/v1/videos", data={"speech": "/etc/passwd"}), "bad_request")
    refused(
        client.post(
            "/v1/videos", content=b"--x\r\ngarbage", headers={"Content-Type": "multipart/form-data; boundary=x"}
        ),
        "bad_request",
    )
    refused(client.get("/v1/videos"), "method_not_allowed")
    refused(client.get("/v1/nothing"), "not_found")


def test_a_slow_sender_is_not_waited_for(serve_app: Callable[..., TestClient]) -> None:
    with serve_app(limits={"body_seconds": 0.2}) as slow:
        app = slow.app

        async def talk() -> list[dict[str, Any]]:
            sent: list[dict[str, Any]] = []
            headers = [
                (b"content-type", b"multipart/form-data; boundary=x"),
                (b"authorization", f"Bearer {slow.headers['Authorization'][7:]}".encode()),
            ]
            scope = {
                "type": "http",
                "asgi": {"version": "3.0"},
                "http_version": "1.1",
                "method": "POST",
                "path": "/v1/videos",
                "raw_path": b"/v1/videos",
            }
            scope |= {
                "query_string": b"",
                "headers": headers,
                "server": ("test", 80),
                "client": ("test", 1),
                "scheme": "http",
                "root_path": "",
            }
            asked = 0

            async def receive() -> dict[str, Any]:
                nonlocal asked
                asked += 1
                if asked > 2:
                    await asyncio.sleep(30)
                return {"type": "http.request", "body": b"--x\r\n" if asked == 1 else b"Content-", "more_body": True}

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            await app(scope, receive, send)  # type: ignore[arg-type, operator]
            return sent

        from s2v_ray.serving import api

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(api, "DRAIN_SECONDS", 0.1)
            start, body = asyncio.run(talk())[:2]
        assert start["status"] == 408 and b"upload_too_slow" in body["body"]


def test_the_token_is_demanded_before_the_body_is_looked_at(client: TestClient) -> None:
    for wrong in ("", "Bearer ", "Bearer wrong", "Basic eDp5"):
        answer = client.post("/v1/videos", content=b"x", headers={"Authorization": wrong})
        refused(answer, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz", headers={"Authorization": ""}).status_code == 200
    refused(client.get("/metrics", headers={"Authorization": ""}), "unauthorized")


def test_pages_of_other_sites_cannot_post(client: TestClient) -> None:
    sound = {"speech": ("s", wav(speech(0.1)))}
    refused(client.post("/v1/videos", files=sound, headers={"Origin": "https://elsewhere.example"}), "foreign_origin")
    assert client.post("/v1/videos", files=sound, headers={"Origin": "http://testserver"}).status_code == 200


def test_a_token_that_is_hardly_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_token("") == ""
    for value in ("", "short"):
        monkeypatch.setenv("S2V_TEST_TOKEN", value)
        with pytest.raises(ValueError, match="S2V_TEST_TOKEN must hold the bearer token"):
            read_token("S2V_TEST_TOKEN")


def test_overload_is_told_and_goes_by(serve_app: Callable[..., TestClient]) -> None:
    with serve_app(limits={"videos": 2}) as small:
        sound = wav(speech(4.0))
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(post(small, speech=sound))) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {a.status_code for a in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                refused(answer, "busy")
                assert int(answer.headers["retry-after"]) > 0
        assert post(small, speech=sound).status_code == 200


def test_a_fault_of_ours_is_one_sentence_too(
    serve_app: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    from s2v_ray.inference.predictor import Predictor

    with serve_app() as client:
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "generate_next", lambda *_: 1 / 0)
            assert "division" not in refused(post(client, speech=wav(speech(0.2))), "internal")
        assert post(client, speech=wav(speech(0.2))).status_code == 200


# ---- jobs


def wait(client: TestClient, job: str) -> dict[str, Any]:
    until = time.monotonic() + 60
    while (state := client.get(f"/v1/jobs/{job}").json())["state"] in ("queued", "running"):
        assert time.monotonic() < until
        time.sleep(0.05)
    return state


def test_a_job_is_taken_drawn_and_fetched(client: TestClient, tmp_path: Path) -> None:
    sound = wav(speech(6.0))  # too long for /v1/videos
    answer = post(client, "/v1/jobs", data={"emotion": "angry", "seed": "3"}, speech=sound)
    assert answer.status_code == 202 and answer.json()["state"] == "queued" and answer.json()["frames"] == 150
    job = answer.json()["id"]
    state = wait(client, job)
    assert (state["state"], state["progress"], state["error"]) == ("done", 1.0, None)
    video = client.get(state["result"])
    assert frames(video.content, tmp_path).shape == (150, 32, 32, 3)
    assert client.delete(f"/v1/jobs/{job}").status_code == 200
    refused(client.get(f"/v1/jobs/{job}"), "unknown_job")


def test_jobs_that_are_none(client: TestClient) -> None:
    for job in ("0" * 32, "..", "%2e%2e%2fetc", "x" * 500):
        assert client.get(f"/v1/jobs/{job}").json()["error"]["code"] in ("unknown_job", "not_found")
    refused(client.get("/v1/jobs/" + "0" * 32 + "/video"), "unknown_job")


def test_without_a_folder_there_are_no_jobs(serve_app: Callable[..., TestClient]) -> None:
    with serve_app() as plain:
        refused(post(plain, "/v1/jobs", speech=wav(speech(0.2))), "not_found")
