"""Channel from the workers of a run to the driver: an actor. Imports little: its process starts with every run."""

from __future__ import annotations

import asyncio
from typing import Any

from s2v_ray.training.stalls import Activity, StallDetector

ACK_SECONDS = 0.05
"""Polling interval for acknowledgements, of workers and driver."""


class RunChannel:
    """Log records, training records, activities, the result and a final error on their way to the driver.

    Args:
        stall_seconds: time without progress after which a run counts as stalled.
    """

    def __init__(self, stall_seconds: float = 300.0) -> None:
        self.stalls = StallDetector(stall_seconds)
        self.log_records: list[dict[str, Any]] = []
        self.records: list[dict[str, Any]] = []
        self.continues = True
        self.metrics: dict[str, Any] = {}
        self.error: ValueError | None = None

    def fail(self, error: ValueError) -> None:
        """Store the error that ends the run; the first one is kept."""
        self.error = self.error or error

    def failure(self) -> ValueError | None:
        """Return the error that ends the run, or None."""
        return self.error

    def activity(self, activity: Activity) -> None:
        """Receive what a worker does."""
        self.stalls.report(activity)

    def reset_activities(self) -> None:
        """Forget what workers did: they are started anew."""
        self.stalls.reset()

    def stalled(self) -> str:
        """Return which worker holds up the run, once for each stall, or ""."""
        return self.stalls.stalled()

    def log(self, record: dict[str, Any]) -> None:
        """Add a log record (``logs.record_to_dict``)."""
        self.log_records.append(record)

    async def report(self, record: dict[str, Any]) -> bool:
        """Add a training record and wait for the driver's acknowledgement; return whether training continues."""
        self.records.append(record)
        while any(r is record for r in self.records):
            await asyncio.sleep(ACK_SECONDS)
        return self.continues

    def drain(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return new log records, once, and all training records that were not acknowledged."""
        drained, self.log_records = self.log_records, []
        return drained, self.records

    def ack(self, continues: bool) -> None:
        """Acknowledge all training records; ``continues`` says whether training goes on."""
        self.continues = continues
        self.records.clear()

    def finish(self, metrics: dict[str, Any]) -> None:
        """Store the result of the run."""
        self.metrics = metrics

    def result(self) -> dict[str, Any]:
        """Return the result of the run."""
        return self.metrics
