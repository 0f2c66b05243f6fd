"""The client in docs/live.md runs as it is, against a real server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from s2v_ray.serving.live_protocol import Hello
from tests.helpers.bundles import SIZE
from tests.helpers.servers import listening
from tests.helpers.sounds import speech, wav
from tests.serving.conftest import TOKEN

PAGE = (Path(__file__).parents[2] / "docs" / "live.md").read_text()


@pytest.fixture(scope="module")
def address(make_client: Callable[..., Any]) -> Iterator[str]:
    with listening(make_client().app) as at:
        yield at.replace("http", "ws") + "/v1/live"


def run_client(folder: Path, address: str, token: str) -> subprocess.CompletedProcess[str]:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "client.py").write_text(block)
    (folder / "speech.wav").write_bytes(wav(speech(1.2)))
    command = [sys.executable, "client.py", address, "speech.wav", "frames"]
    environment = {**os.environ, "S2V_TOKEN": token}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_client_of_the_page_stores_the_frames(address: str, tmp_path: Path) -> None:
    done = run_client(tmp_path, address, TOKEN)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "ended")
    assert "codes" in kinds
    assert events[-1]["seconds"] == 1.2
    files = sorted((tmp_path / "frames").iterdir())
    assert len(files) == events[-1]["sent"] == 30 - events[-1]["skipped"]
    assert cv2.imread(str(files[-1])).shape == (SIZE, SIZE, 3)


def test_the_client_of_the_page_reports_a_refusal(address: str, tmp_path: Path) -> None:
    done = run_client(tmp_path, address, "wrong")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "unauthorized"
    assert "1008" in done.stderr


def test_the_page_names_every_field_of_the_hello() -> None:
    table = PAGE.split("## Messages of the client")[1].split("\n\n")[2]
    assert set(re.findall(r"`(\w+)`", table)) >= set(Hello.model_fields)
