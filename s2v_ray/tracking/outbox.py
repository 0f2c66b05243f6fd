"""Records on their way to a tracker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from s2v_ray import storage

CLOSE_SECONDS = 60.0
"""How long the end of a run waits for a tracker that does not answer."""

Record = dict[str, Any]
"""A record with the key ``time``, milliseconds since 1970."""


class Outbox:
    """Records on their way to a tracker, in order. What cannot be sent is sent with the next record.

    What is left at the end of a run is stored in the run folder, and sent when the run is continued.

    Args:
        uri: file for what is left.
        send: sends records, or raises and has sent none or may be called again with the same ones.
    """

    def __init__(self, uri: str, send: Callable[[Sequence[Record]], None]) -> None:
        self.uri, self.send = uri, send
        self.pending: list[Record] = []
        if storage.exists(uri):
            self.pending = [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record, and send everything that is pending."""
        self.pending.append({**record, "time": int(1000 * time.time())})
        self.flush()

    def flush(self) -> None:
        """Send everything that is pending."""
        if self.pending:
            self.send(self.pending)
            self.pending = []

    def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Try to send what is pending for ``patience`` seconds, then store it; the last error is raised."""
        until, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                self.flush()
                break
            except Exception:  # the clients raise errors of many kinds
                if time.monotonic() + pause > until:
                    lines = "".join(json.dumps(entry) + "\n" for entry in self.pending)
                    storage.write_bytes(self.uri, lines.encode())
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
        storage.remove(self.uri)
