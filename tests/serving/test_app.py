"""The endpoint on Ray Serve: every kind of request for a video, several bundles, and a rolling update under load."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import requests
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from s2v_ray.serving.app import APPLICATION, app, local_endpoint
from s2v_ray.serving.live_protocol import FRAME_HEADER
from s2v_ray.serving.settings import SettingsError, parse_settings
from tests.helpers.bundles import make_bundle
from tests.helpers.live import pcm
from tests.helpers.servers import free_port
from tests.helpers.sounds import speech, wav


def live_frames(address: str, sound: np.ndarray) -> list[dict[str, Any]]:
    """Events of a live session that gets this speech at once."""
    events = []
    with connect(address.replace("http", "ws") + "/v1/live") as socket_:
        socket_.send(json.dumps({"type": "hello"}))
        socket_.send(pcm(sound))
        socket_.send(json.dumps({"type": "end"}))
        for message in socket_:
            if isinstance(message, str):
                events.append(json.loads(message))
            else:
                socket_.send(json.dumps({"type": "ack", "frame": FRAME_HEADER.unpack_from(message)[0]}))
    return events


def assert_counted_by_ray(path: str, expected: dict[str, int]) -> None:
    """Ray's Prometheus endpoint of the node counts the requests of its replicas."""
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 30
    while True:
        counted: dict[str, float] = {}
        for family in text_string_to_metric_families(requests.get(address, timeout=10).text):
            for sample in family.samples:
                if sample.name == "ray_s2v_requests_total" and sample.labels["path"] == path:
                    status = sample.labels["status"]
                    counted[status] = counted.get(status, 0.0) + sample.value
        if counted == expected:
            return
        assert time.monotonic() < deadline, (counted, expected)
        time.sleep(0.5)


def test_a_port_in_use_is_an_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1 port {port}"),
            local_endpoint(parse_settings({"bundle": "b"}), "127.0.0.1", port),
        ):
            pass


def test_unknown_settings_are_an_error() -> None:
    with pytest.raises(SettingsError, match="bundels"):
        app({"bundle": "b", "bundels": {}})


@pytest.mark.cluster
@pytest.mark.slow
def test_an_endpoint_on_serve(uris: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve

    ray.shutdown()  # the endpoint starts its own Ray instance
    second = make_bundle(tmp_path / "second", seed=7)
    settings = parse_settings(
        {"bundle": uris["bundle"], "bundles": {"second": second}, "videos": str(tmp_path / "videos"), "cpus": 0.5}
    )
    sound = wav(speech(1.0))

    def post(data: dict[str, str] | None = None, **more: Any) -> requests.Response:
        return requests.post(f"{address}/v1/videos/sync", files={"speech": sound}, data=data or {}, timeout=60, **more)

    monkeypatch.setenv("RAY_metrics_report_interval_ms", "500")
    with local_endpoint(settings, "127.0.0.1", free_port()) as address:
        assert requests.get(f"{address}/readyz", timeout=10).json() == {"status": "ready"}
        plain = post()
        assert plain.status_code == 200 and plain.content[4:8] == b"ftyp"
        with post({"stream": "true"}, stream=True) as streamed:
            pieces = list(streamed.iter_content(None))
            assert b"".join(pieces).count(b"moof") >= 3
            assert len(pieces) > 1
        other = post({"model": "second"}, headers={"serve_multiplexed_model_id": "second"})
        assert other.status_code == 200
        assert other.content != plain.content
        assert post({"emotion": "bored"}).json()["error"]["code"] == "unknown_emotion"
        talk = live_frames(address, speech(1.0))
        assert talk[0]["type"] == "started"
        assert talk[-1]["type"] == "ended"
        assert talk[-1]["sent"] + talk[-1]["skipped"] == 25
        created = requests.post(f"{address}/v1/videos", files={"speech": sound}, timeout=30).json()
        video = f"{address}/v1/videos/{created['id']}"
        deadline = time.monotonic() + 60
        while (found := requests.get(video, timeout=10).json())["status"] != "completed":
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert requests.get(f"{video}/content", timeout=10).content[4:8] == b"ftyp"

        assert_counted_by_ray("/v1/videos/sync", {"200": 3, "422": 1})
        statuses: list[int] = []
        contents: list[bytes] = []
        stop = threading.Event()

        def post_until_stopped() -> None:
            while not stop.is_set():
                response = post()
                statuses.append(response.status_code)
                contents.append(response.content)

        clients = [threading.Thread(target=post_until_stopped) for _ in range(3)]
        for client in clients:
            client.start()
        changed = settings.model_copy(update={"bundle": second, "bundles": {}})
        serve.run(app(changed.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
        time.sleep(1)
        stop.set()
        for client in clients:
            client.join()
        assert set(statuses) == {200}, "a request was dropped during the rolling update"
        assert contents[-1] == other.content, "the new bundle answers"
