"""The agent of a spot node, with a local metadata server and a stand-in for the ray executable."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from s2v_ray.cluster import spot
from s2v_ray.cluster.spot import Metadata, Notice, read_notice, watch
from tests.helpers.ray_program import NODE, calls, make_ray


class FakeMetadata:
    """IMDSv2: refuses requests without its token. ``script``: changes of ``pages`` at each request for the action."""

    def __init__(self) -> None:
        self.pages: dict[str, str] = {}
        self.script: list[dict[str, str]] = []
        self.tokens: list[str] = []
        self.token_lives = 10_000
        self.broken = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                assert int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
                outer.tokens.append(f"token-{len(outer.tokens)}")
                self.answer(200, outer.tokens[-1])

            def do_GET(self) -> None:
                if self.headers.get("X-aws-ec2-metadata-token") not in outer.tokens[-1:] or outer.token_lives == 0:
                    outer.token_lives = 10_000
                    outer.tokens.append("expired")
                    self.answer(401, "")
                    return
                outer.token_lives -= 1
                if outer.broken:
                    outer.broken -= 1
                    self.answer(500, "")
                    return
                path = self.path.removeprefix("/latest/meta-data/")
                if path == "spot/instance-action" and outer.script:
                    outer.pages |= outer.script.pop(0)
                page = outer.pages.get(path)
                self.answer(404 if page is None else 200, page or "")

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()


@pytest.fixture
def metadata() -> Iterator[FakeMetadata]:
    fake = FakeMetadata()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def ray(tmp_path: Path) -> Path:
    return make_ray(tmp_path)


def action(seconds: float) -> dict[str, str]:
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    return {"spot/instance-action": json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"})}


REBALANCE = {"events/recommendations/rebalance": json.dumps({"noticeTime": "2026-01-01T00:00:00Z"})}


def test_the_remaining_time_has_a_margin() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert Notice("interruption", now + timedelta(seconds=120)).seconds_left(now) == 110
    assert Notice("interruption", now + timedelta(seconds=3)).seconds_left(now) == 0
    assert Notice("rebalance", None).seconds_left(now) is None


def test_no_notice(metadata: FakeMetadata) -> None:
    assert read_notice(Metadata(metadata.url)) is None
    assert metadata.tokens == ["token-0"], "one token for both requests"


def test_an_interruption_is_more_severe_than_a_recommendation(metadata: FakeMetadata) -> None:
    metadata.pages = REBALANCE | {"spot/instance-action": '{"action": "stop", "time": "2026-03-04T05:06:07Z"}'}
    assert read_notice(Metadata(metadata.url)) == Notice("interruption", datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC))


def test_an_expired_token_is_renewed(metadata: FakeMetadata) -> None:
    metadata.pages = {"local-ipv4": "10.0.0.7"}
    asked = Metadata(metadata.url)
    assert asked.get("local-ipv4") == "10.0.0.7"
    metadata.token_lives = 0
    assert asked.get("local-ipv4") == "10.0.0.7"
    assert metadata.tokens == ["token-0", "expired", "token-2"]


def test_the_node_is_drained_with_the_deadline(metadata: FakeMetadata, ray: Path) -> None:
    metadata.script = [{}, REBALANCE, {}, action(120)]
    watch(Metadata(metadata.url), [str(ray)], NODE, poll=0.01)
    recommended, interrupted = calls(ray)
    reason = ["--node-id", NODE, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message"]
    assert recommended == ["drain-node", *reason, "EC2 spot rebalance notice"]
    assert interrupted[:-1] == ["drain-node", *reason, "EC2 spot interruption notice", "--deadline-remaining-seconds"]
    assert 100 <= int(interrupted[-1]) <= 110


def test_the_agent_survives_invalid_responses_and_a_refusal(
    metadata: FakeMetadata, ray: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="s2v_ray")
    metadata.broken = 2
    metadata.script = [{"spot/instance-action": "not JSON"}, action(120)]
    ray.with_name("refuse").touch()
    watch(Metadata(metadata.url), [str(ray)], NODE, poll=0.01)
    assert [line.split(":")[0] for line in caplog.messages[:3]] == ["metadata"] * 3
    assert "ray refused, trying again" in caplog.messages[3]
    assert "ray drains this node" in caplog.messages[4]
    assert len(calls(ray)) == 2


def test_a_node_that_is_not_spot_needs_no_agent(metadata: FakeMetadata, ray: Path) -> None:
    metadata.pages = {"instance-life-cycle": "on-demand"}
    assert spot.main(["--metadata", metadata.url, "--ray", str(ray)]) == 0
    assert not ray.with_name("calls").exists()


def test_the_agent_from_start_to_end(metadata: FakeMetadata, ray: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata.pages = {"instance-life-cycle": "spot", "local-ipv4": "10.0.0.7"}
    metadata.script = [{}, action(60)]
    assert spot.main(["--metadata", metadata.url, "--ray", str(ray), "--poll", "0.01"]) == 0
    asked, drained = calls(ray)
    assert asked == ["list", "nodes", "--format", "json", "--filter", "node_ip=10.0.0.7", "--filter", "state=ALIVE"]
    assert drained[:3] == ["drain-node", "--node-id", NODE]
    assert f"watching node {NODE}" in capsys.readouterr().out
