"""Records that wait for a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from s2v_ray.tracking import outbox as outbox_module
from s2v_ray.tracking.outbox import Outbox


class Tracker:
    """Accepts entries while it is up."""

    def __init__(self) -> None:
        self.up, self.got, self.calls = True, list[int](), 0

    def send(self, entries: Sequence[dict[str, Any]]) -> None:
        self.calls += 1
        if not self.up:
            raise ConnectionError("no answer")
        self.got += [entry["step"] for entry in entries]


def test_records_of_an_outage_are_sent_later_and_in_order(tmp_path: Path) -> None:
    tracker = Tracker()
    outbox = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    outbox.add({"step": 1})
    tracker.up = False
    for step in (2, 3):
        with pytest.raises(ConnectionError):
            outbox.add({"step": step})
    tracker.up = True
    outbox.add({"step": 4})
    outbox.close()
    assert tracker.got == [1, 2, 3, 4]
    assert not (tmp_path / "left.jsonl").exists()


def test_what_is_left_at_the_end_is_sent_when_the_run_is_continued(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.up = False
    outbox = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    with pytest.raises(ConnectionError):
        outbox.add({"step": 1, "loss": 0.5})
    with pytest.raises(ConnectionError):
        outbox.close(patience=0.0)
    tracker.up = True
    continued = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    continued.add({"step": 2})
    continued.close()
    assert tracker.got == [1, 2]
    assert not (tmp_path / "left.jsonl").exists()


def test_the_end_of_a_run_waits_for_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker()
    outbox = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    tracker.up = False
    with pytest.raises(ConnectionError):
        outbox.add({"step": 1})
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        tracker.up = len(slept) == 3

    monkeypatch.setattr(outbox_module.time, "sleep", sleep)
    outbox.close(patience=100.0)
    assert (tracker.got, slept) == ([1], [1.0, 2.0, 4.0])
