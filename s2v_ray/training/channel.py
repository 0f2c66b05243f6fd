"""What the workers of a run say, on its way to the driver: an actor. Imports next to nothing, since its process starts with every run."""

from __future__ import annotations

import asyncio
from typing import Any

HEARD_SECONDS = 0.05
"""Between looks at whether the driver has heard, and of the driver, where workers wait for it."""


class Messages:
    """What the workers say, on its way to the driver."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.go_on = True
        self.metrics: dict[str, float] = {}
        self.refused: ValueError | None = None

    def refuse(self, error: ValueError) -> None:
        self.refused = self.refused or error

    def refusal(self) -> ValueError | None:
        return self.refused

    def say(self, line: str) -> None:
        self.lines.append(line)

    async def hear(self, record: dict[str, Any]) -> bool:
        """Whether training goes on; known when the driver has heard the record."""
        self.records.append(record)
        while any(r is record for r in self.records):
            await asyncio.sleep(HEARD_SECONDS)
        return self.go_on

    def take(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Lines, once; and records, until they are ``heard``."""
        taken, self.lines = self.lines, []
        return taken, self.records

    def heard(self, go_on: bool) -> None:
        self.go_on = go_on
        self.records.clear()

    def finish(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics

    def result(self) -> dict[str, float]:
        return self.metrics
