"""Live sessions over WebSocket: frames of the speech, and a stable code for whatever a client does wrong."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from s2v_ray.inference.live import LiveFrame
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.timing import SAMPLE_RATE
from s2v_ray.serving import live, live_outbox, live_pool
from s2v_ray.serving.errors import CODES
from s2v_ray.serving.live_protocol import MAX_CHUNK_BYTES, Hello, pack_frame, unpack_frame
from tests.helpers.bundles import EMOTIONS, SIZE
from tests.helpers.http import make_png
from tests.helpers.live import LiveClient, connected, pcm
from tests.helpers.sounds import speech, wav
from tests.serving.conftest import TOKEN


@pytest.fixture(scope="module")
def endpoint(make_client: Callable[..., TestClient]) -> Iterator[TestClient]:
    with make_client(bundles={}, limits={"live": 2, "upload_mb": 1}) as started:
        yield started


def talk(client: LiveClient, sound: np.ndarray, size: int = 3333) -> None:
    """Sends speech, receiving what arrives in between, and ends it."""
    data = pcm(sound)
    for i in range(0, len(data), size):
        client.socket.send_bytes(data[i : i + size])
    client.send(type="end")


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def context_of(client: TestClient) -> Any:
    app: Any = client.app
    return app.app.context


# ---- frames and events


def test_frames_are_those_of_the_same_speech_as_a_video(
    endpoint: TestClient, uris: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_BACKLOG_FRAMES", 1000)  # the test sends faster than a person speaks
    monkeypatch.setattr(live_outbox, "QUEUED_FRAMES", 1000)
    sound, voice = speech(1.2), speech(1.0, 5)
    predictor = Predictor(uris["bundle"])
    identity = predictor.encode_speech(np.frombuffer(wav(voice)[44:], "<i2").astype(np.float32) / 32768).identity
    received = np.frombuffer(pcm(sound), "<i2").astype(np.float32) / 32768
    expected = np.concatenate(list(predictor.generate(GenerationRequest(received, identity, "happy", seed=3))))
    with connected(endpoint) as client:
        client.hello(emotion="happy", seed=3, identity_speech=base64_of(wav(voice)), format="webp", quality=100)
        talk(client, sound)
        found = client.until_closed()
    assert found.close_code == 1000
    assert sorted(found.frames) == list(range(30))
    np.testing.assert_allclose(found.seconds, np.arange(30) / 25)
    sent = Hello(type="hello", format="webp", quality=100)
    shown = [unpack_frame(pack_frame(LiveFrame(i, pixels), sent))[2].astype(int) for i, pixels in enumerate(expected)]
    errors = [np.abs(found.frames[i] - shown[i]).mean() for i in range(30)]
    assert max(errors) < 0.5  # a value on the edge of two grey levels may round either way
    assert np.abs(found.frames[0] - shown[29]).mean() > 1
    started = found.event("started")
    assert (started["size"], started["fps"], started["window"]) == (SIZE, 25, 25)
    assert started["look_ahead"] == pytest.approx(0.2)
    assert "synthetic" in started["synthetic"]
    assert found.event("ended") == {
        "type": "ended",
        "seconds": 1.2,
        "lost_seconds": 0.0,
        "sent": 30,
        "skipped": 0,
    }


def test_codes_are_events(endpoint: TestClient) -> None:
    with connected(endpoint) as client:
        client.hello()
        talk(client, speech(2.5))
        found = client.until_closed()
    codes = [event for event in found.events if event["type"] == "codes"]
    assert [event["frame"] for event in codes] == [25]
    for event in codes:
        assert set(event["emotion"]) == set(EMOTIONS)
        assert sum(event["emotion"].values()) == pytest.approx(1.0, abs=0.01)


def test_another_rate_and_lost_audio(endpoint: TestClient) -> None:
    sound = np.repeat(speech(1.0), 3)  # 48 kHz
    with connected(endpoint) as client:
        client.hello(sample_rate=48_000)
        client.socket.send_bytes(pcm(sound[:24_000]))
        client.send(type="gap", samples=12_000)
        client.socket.send_bytes(pcm(sound[24_000:]))
        client.send(type="end")
        found = client.until_closed()
    ended = found.event("ended")
    assert ended["lost_seconds"] == pytest.approx(0.25, abs=0.002)
    assert ended["seconds"] == pytest.approx(1.26, abs=0.03)
    assert ended["sent"] + ended["skipped"] == 32


def test_statistics_and_warnings(endpoint: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STATISTICS_SECONDS", 0.05)
    with connected(endpoint) as client:
        client.hello()
        client.socket.send_bytes(pcm(speech(0.5)))
        client.send(type="gap", samples=1600)
        client.until("statistics")
        client.until("warning")
        warning = client.received.event("warning")
        client.send(type="end")
        client.until_closed()
    assert warning["code"] == "audio_lost"
    assert warning["message"] == "0.10 s of audio were lost"


def test_a_client_that_acknowledges_nothing_gets_one_window(
    endpoint: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_outbox, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(live, "MAX_BACKLOG_FRAMES", 1000)
    with connected(endpoint, acknowledges=False) as client:
        client.hello()
        talk(client, speech(4.0))
        found = client.until_closed()
    ended = found.event("ended")
    assert len(found.frames) == ended["sent"] == 25
    assert ended["skipped"] == 75
    assert found.close_code == 1000


def test_a_picture_gives_identity_and_take(endpoint: TestClient) -> None:
    picture = base64_of(make_png())
    with connected(endpoint) as client:
        client.hello(face=picture, take=picture, aligned=True)
        talk(client, speech(0.5))
        assert client.until_closed().close_code == 1000


# ---- what is refused


def hello(**fields: Any) -> str:
    return json.dumps({"type": "hello", **fields})


@pytest.mark.parametrize(
    ("first", "code", "message"),
    [
        ("", "bad_request", "hello: "),
        ("{", "bad_request", "hello: "),
        ("null", "bad_request", "hello: "),
        ("[]", "bad_request", "hello: "),
        ('{"type": "hi"}', "bad_request", "type: "),
        ("{}", "bad_request", "type: "),
        (hello(colour="red"), "bad_request", "colour: "),
        (hello(sample_rate=7999), "bad_request", "sample_rate: "),
        (hello(sample_rate="fast"), "bad_request", "sample_rate: "),
        (hello(seed=-1), "bad_request", "seed: "),
        (hello(format="gif"), "bad_request", "format: "),
        (hello(quality=0), "bad_request", "quality: "),
        (hello(model="x" * 500), "unknown_model", "model: there is no bundle 'xxx"),
        (hello(model="reference"), "bad_request", "model: a reference bundle has no live sessions"),
        (hello(emotion="bored"), "unknown_emotion", "emotion: "),
        (hello(face="???"), "bad_request", "face: is not valid Base64"),
        (hello(face=base64_of(b"no picture")), "picture_unreadable", "face: "),
        (hello(face=base64_of(make_png())), "not_one_face", "face: "),
        (hello(identity_speech=base64_of(b"no sound")), "speech_unreadable", "identity_speech: "),
        (hello(token="wrong"), "unauthorized", "token: "),
        (hello(take="A" * (2 << 20)), "upload_too_large", "hello: "),
    ],
)
def test_an_unusable_hello_is_refused(endpoint: TestClient, first: str, code: str, message: str) -> None:
    with connected(endpoint) as client:
        client.socket.send_text(first)
        found = client.until_closed()
    assert (found.error, found.close_code) == (code, 1008)
    assert found.event("error")["error"]["message"].startswith(message)
    assert not found.frames


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ("nonsense", "message: "),
        ('{"type": "hello"}', "message: "),
        ('{"type": "gap", "samples": 0}', "gap.samples: "),
        ('{"type": "gap", "samples": "many"}', "gap.samples: "),
        ('{"type": "ack", "frame": -1}', "ack.frame: "),
        ('{"type": "ack", "frame": 1e400}', "ack.frame: "),
        ('{"type": "end", "now": true}', "end.now: "),
        (bytes(MAX_CHUNK_BYTES + 2), "audio: a chunk has more than"),
    ],
)
def test_an_unusable_message_ends_the_session(endpoint: TestClient, later: str | bytes, message: str) -> None:
    with connected(endpoint) as client:
        client.hello()
        client.until("started")
        if isinstance(later, bytes):
            client.socket.send_bytes(later)
        else:
            client.socket.send_text(later)
        found = client.until_closed()
    assert (found.error, found.close_code) == ("bad_request", 1008)
    assert found.event("error")["error"]["message"].startswith(message)


def test_audio_before_the_hello_is_refused(endpoint: TestClient) -> None:
    with connected(endpoint) as client:
        client.socket.send_bytes(bytes(640))
        found = client.until_closed()
    assert (found.error, found.close_code) == ("bad_request", 1008)


@pytest.mark.parametrize("again", ["end", "audio"])
def test_nothing_follows_the_end(endpoint: TestClient, again: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with connected(endpoint, acknowledges=False) as client:
        client.hello()
        talk(client, speech(2.0))
        if again == "end":
            client.send(type="end")
        else:
            client.socket.send_bytes(bytes(640))
        found = client.until_closed()
    assert found.error == "bad_request"


@pytest.mark.parametrize("flood", ["audio", "gap"])
def test_audio_ahead_of_time_is_refused(endpoint: TestClient, flood: str) -> None:
    with connected(endpoint) as client:
        client.hello()
        if flood == "audio":
            for _ in range(15):
                client.socket.send_bytes(bytes(2 * SAMPLE_RATE))
        else:
            client.send(type="gap", samples=10**15)
        found = client.until_closed()
    assert (found.error, found.close_code) == ("audio_too_fast", 1008)


def test_sessions_are_limited(endpoint: TestClient) -> None:
    with connected(endpoint) as first, connected(endpoint) as second:
        for client in (first, second):
            client.hello()
            client.until("started")
        with connected(endpoint) as third:
            third.hello()
            found = third.until_closed()
        assert (found.error, found.close_code) == ("too_many_sessions", 1013)
        assert "s2v_live_sessions 2.0" in endpoint.get("/metrics").text
        first.send(type="end")
        assert first.until_closed().close_code == 1000
        with connected(endpoint) as fourth:
            fourth.hello()
            fourth.until("started")


def test_a_session_that_receives_nothing_is_closed(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"live_idle_seconds": 0.2}) as client:
        with connected(client) as silent:
            assert silent.until_closed().error == "session_idle"
        with connected(client) as silent:
            silent.hello()
            silent.socket.send_bytes(bytes(640))
            for _ in range(3):
                silent.send(type="ack", frame=0)  # acknowledgements are no audio
            found = silent.until_closed()
        assert (found.error, found.close_code) == ("session_idle", 1008)


def test_a_long_session_is_closed(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"live_seconds": 0.1}) as client, connected(client) as endless:
        endless.hello()
        endless.until("started")
        time.sleep(0.15)
        endless.socket.send_bytes(bytes(640))
        assert endless.until_closed().error == "session_too_long"


def test_a_replica_that_stops_asks_clients_to_connect_again(make_client: Callable[..., TestClient]) -> None:
    with make_client() as stopped:
        with connected(stopped) as client:
            client.hello()
            client.until("started")
            assert stopped.portal is not None
            stopped.portal.call(context_of(stopped).live.stop)
            found = client.until_closed()
        assert (found.error, found.close_code) == ("stopping", 1012)
        with connected(stopped) as late:
            assert late.until_closed().error == "stopping"


def test_an_endpoint_that_is_not_started_is_not_ready(make_client: Callable[..., TestClient]) -> None:
    with connected(make_client()) as client:
        client.hello()
        found = client.until_closed()
    assert (found.error, found.close_code) == ("not_ready", 1013)


def test_the_token_is_in_the_header_or_the_hello(make_client: Callable[..., TestClient]) -> None:
    with make_client() as client:
        client.headers.pop("Authorization")
        with connected(client) as without:
            without.hello()
            assert without.until_closed().error == "unauthorized"
        with connected(client) as right:
            right.hello(token=TOKEN)
            right.until("started")
        with connected(client, headers={"Authorization": f"Bearer {TOKEN}"}) as right:
            right.hello()
            right.until("started")


def test_pages_of_other_sites_and_too_many_connections_are_refused(make_client: Callable[..., TestClient]) -> None:
    with make_client(limits={"requests": 1}) as client:
        with connected(client, headers={"Origin": "https://elsewhere.example"}) as foreign:
            assert foreign.until_closed().error == "foreign_origin"
        with connected(client, headers={"Origin": "http://testserver"}) as own:
            own.hello()
            own.until("started")
            with connected(client) as further:
                found = further.until_closed()
            assert (found.error, found.close_code) == ("busy", 1013)


def test_an_error_of_the_model_ends_the_session(endpoint: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with connected(endpoint) as client:
        client.hello()
        client.until("started")
        with monkeypatch.context() as patch:
            patch.setattr(live_pool, "advance", fail)
            client.socket.send_bytes(pcm(speech(1.0)))
            found = client.until_closed()
    assert (found.error, found.close_code) == ("internal", 1011)
    assert "out of memory" not in found.event("error")["error"]["message"]
    with connected(endpoint) as after:
        after.hello()
        talk(after, speech(0.4))
        assert after.until_closed().close_code == 1000


def test_a_client_that_leaves_frees_its_place(endpoint: TestClient) -> None:
    for _ in range(4):
        with connected(endpoint) as client:
            client.hello()
            client.until("started")
            client.socket.send_bytes(pcm(speech(1.0)))
    context = context_of(endpoint)
    end = time.monotonic() + 5
    while context.live.limit.active:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not context.live._open


def test_codes_of_live_sessions_are_documented() -> None:
    new = {"session_idle", "session_too_long", "audio_too_fast", "too_many_sessions", "stopping"}
    assert new <= set(CODES)
