"""Random requests from the OpenAPI document; `python -m tests.faults.random_requests` sends more of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.random_requests import send_random_requests
from tests.helpers.servers import listening
from tests.serving.conftest import TOKEN


def test_random_requests_are_answered_as_described(make_client: Callable[..., Any], tmp_path: Path) -> None:
    with listening(make_client(videos=str(tmp_path)).app) as address:
        report = send_random_requests(address, TOKEN, examples=2, seed=0)
    assert not report.failures, "\n\n".join(report.failures[:5])
    assert report.cases > 100
    assert report.sequences > 0
    assert {"POST /v1/videos 200", "GET /v1/videos/{video_id} 200"} <= report.statuses.keys()
