"""Names the worker that holds up a run: what each worker does, and since when.

When one worker hangs, all others wait for it in a collective operation until the process group's timeout ends them, and
their errors do not say for whom. So a thread of each worker reports what its main thread does. A run is stalled when no
worker has moved on for a while.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

REPORT_SECONDS = 10.0
"""Interval of a worker's reports."""
SILENT_SECONDS = 3 * REPORT_SECONDS
"""Time without a report after which a worker counts as not responding."""
DATA, STEP, VALIDATION = "waits for data", "computes", "validates"
EXPORT, ENDED = "exports", "has ended"
"""Activities for which no other worker waits."""


@dataclass(frozen=True)
class Activity:
    """What a worker does.

    Attributes:
        rank: of the worker.
        host: its host.
        step: its step.
        doing: ``DATA``, ``STEP``, ``VALIDATION``, ``EXPORT`` or ``ENDED``.
        seconds: since when.
    """

    rank: int
    host: str
    step: int
    doing: str
    seconds: float


class ActivityReporter:
    """Reports the activity of a worker from a thread, until it is closed.

    Args:
        rank: of the worker.
        send: receives an ``Activity``; an exception ends the reports.
        interval: seconds between two reports.
    """

    def __init__(self, rank: int, send: Callable[[Activity], object], interval: float = REPORT_SECONDS) -> None:
        self.rank, self.host, self.send, self.interval = rank, socket.gethostname(), send, interval
        self._now = (0, DATA, time.monotonic())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._report, name="activity", daemon=True)

    def note(self, step: int, doing: str) -> None:
        """Note what the main thread begins."""
        self._now = (step, doing, time.monotonic())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.send(Activity(self.rank, self.host, self._now[0], ENDED, 0.0))

    def _report(self) -> None:
        while not self._stop.wait(self.interval):
            step, doing, since = self._now
            self.send(Activity(self.rank, self.host, step, doing, time.monotonic() - since))


class StallDetector:
    """Detects that no worker moves on, and names those that the others wait for.

    Args:
        limit: seconds without a change on any worker.
        clock: monotonic, in seconds.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit, self.clock = limit, clock
        self._reports: dict[int, tuple[Activity, float]] = {}
        self._named: frozenset[tuple[int, int]] = frozenset()

    def report(self, activity: Activity) -> None:
        """Receive the report of a worker. One of an earlier attempt is replaced by that of the same rank."""
        self._reports[activity.rank] = activity, self.clock()
        if activity.doing in (EXPORT, ENDED):
            del self._reports[activity.rank]

    def reset(self) -> None:
        """Forget all reports: the workers are started anew."""
        self._reports = {}

    def stalled(self) -> str:
        """Return who holds up the run, once for each stall, or ""."""
        now = self.clock()
        ages = {rank: activity.seconds + now - at for rank, (activity, at) in self._reports.items()}
        position = frozenset((rank, activity.step) for rank, (activity, _) in self._reports.items())
        if not ages or min(ages.values()) < self.limit or position == self._named:
            return ""
        self._named = position
        named = [f"worker {a.rank} on {a.host} {what}" for a, what in self._suspects(now)]
        return f"no worker has moved on for {min(ages.values()) / 60:.1f} min: {'; '.join(named)}"

    def _suspects(self, now: float) -> list[tuple[Activity, str]]:
        """Return the workers that the others wait for, and what is known of each."""
        everyone = [self._reports[rank] for rank in sorted(self._reports)]
        silent = [a for a, at in everyone if now - at > SILENT_SECONDS]
        if silent:
            return [(a, f"does not respond since step {a.step}") for a in silent]
        last = min(a.step for a, _ in everyone)
        behind = [a for a, _ in everyone if a.step == last]
        waiting = [a for a in behind if a.doing == DATA] or behind
        return [(a, f"{a.doing} in step {a.step}") for a in waiting]
