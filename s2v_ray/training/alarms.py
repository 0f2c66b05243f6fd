"""Alarms: conditions on the averaged scalars of a training record that indicate a failing run, each with advice.

An alarm that holds for ``PATIENCE`` records in a row is logged once, and again only after it was off. Every task and
every discriminator brings its own alarms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = 3
"""Consecutive records for which an alarm must hold: a single one may be noise."""

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Alarm:
    """A condition on a record.

    Attributes:
        name: stable name, as written to ``metrics.jsonl``.
        reads: scalars that it needs; it is not triggered if one is absent.
        holds: the condition.
        advice: what is wrong and what to do.
    """

    name: str
    reads: tuple[str, ...]
    holds: Callable[[Record], bool]
    advice: str

    def is_triggered(self, record: Record) -> bool:
        """Whether the condition holds for a record."""
        return all(name in record for name in self.reads) and self.holds(record)


DATA_ALARMS = (
    Alarm(
        "data_starved",
        ("data_wait",),
        lambda r: bool(r["data_wait"] > 0.2),
        "training waits for data for more than a fifth of its time: give Ray Data more CPUs, or move the corpus nearer",
    ),
)
"""Alarms of every task."""


class AlarmMonitor:
    """Counts for how many records in a row each alarm has held."""

    def __init__(self, alarms: Sequence[Alarm]) -> None:
        self.alarms = tuple(alarms)
        self.counts = {alarm.name: 0 for alarm in self.alarms}

    def update(self, record: Record) -> list[Alarm]:
        """Evaluate all alarms on a record; return those that have now held for exactly ``PATIENCE`` records."""
        for alarm in self.alarms:
            self.counts[alarm.name] = self.counts[alarm.name] + 1 if alarm.is_triggered(record) else 0
        return [alarm for alarm in self.alarms if self.counts[alarm.name] == PATIENCE]

    def active(self) -> list[str]:
        """Return the names of all alarms that hold now."""
        return [name for name, count in self.counts.items() if count >= PATIENCE]
