"""Channel from the workers of a run to the driver: an actor. Imports little: its process starts with every run."""

from __future__ import annotations

import asyncio
from typing import Any

ACK_SECONDS = 0.05
"""Polling interval for acknowledgements, of workers and driver."""


class RunChannel:
    """Log records, training records, the result and a final error on their way to the driver."""

    def __init__(self) -> None:
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
