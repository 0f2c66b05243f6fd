"""A real server of MLflow with sqlite."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.servers import free_port

START_SECONDS = 300


@contextlib.contextmanager
def mlflow_server(program: str, folder: Path) -> Iterator[str]:
    """Start the server of the program mlflow with its data in ``folder``; its address."""
    port = free_port()
    options = ["--backend-store-uri", f"sqlite:///{folder}/db", "--artifacts-destination", str(folder / "artifacts")]
    server = subprocess.Popen(
        [program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(2 * START_SECONDS):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health")
                break
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(server.pid, 15)
        server.wait()
