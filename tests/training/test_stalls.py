"""The worker that holds up a run is named once."""

from __future__ import annotations

import time

from s2v_ray.training.stalls import DATA, ENDED, EXPORT, STEP, Activity, ActivityReporter, StallDetector


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def detector(*activities: tuple[int, str, float]) -> tuple[StallDetector, Clock]:
    """Reports at time 0: step, activity and its age of each rank."""
    clock = Clock()
    made = StallDetector(300.0, clock)
    for rank, (step, doing, seconds) in enumerate(activities):
        made.report(Activity(rank, f"h{rank}", step, doing, seconds))
    return made, clock


def test_a_run_that_moves_on_is_not_stalled() -> None:
    made, clock = detector((7, STEP, 400.0), (7, DATA, 299.0))
    assert made.stalled() == ""
    clock.now = 1.0
    assert made.stalled() == "no worker has moved on for 5.0 min: worker 1 on h1 waits for data in step 7"
    assert made.stalled() == "", "it is said once"
    made.report(Activity(1, "h1", 8, STEP, 0.0))
    clock.now = 302.0
    assert made.stalled().startswith("no worker has moved on for 5.0 min: worker 0 on h0 does not respond since step 7")
    made.reset()
    assert made.stalled() == ""


def test_a_worker_whose_reports_stop_is_named_before_those_that_wait() -> None:
    made, clock = detector((7, STEP, 290.0), (7, DATA, 280.0), (7, STEP, 290.0))
    clock.now = 31.0
    for rank, doing in ((0, STEP), (1, DATA)):
        made.report(Activity(rank, f"h{rank}", 7, doing, 321.0))
    assert made.stalled().endswith(": worker 2 on h2 does not respond since step 7")


def test_a_worker_that_is_behind_is_named() -> None:
    made, _ = detector((8, STEP, 500.0), (7, STEP, 510.0))
    assert made.stalled() == "no worker has moved on for 8.3 min: worker 1 on h1 computes in step 7"


def test_all_are_named_if_nothing_distinguishes_them() -> None:
    made, _ = detector((7, STEP, 500.0), (7, STEP, 510.0))
    assert made.stalled().endswith(": worker 0 on h0 computes in step 7; worker 1 on h1 computes in step 7")


def test_nobody_waits_for_workers_that_have_ended_or_export() -> None:
    made, _ = detector((7, EXPORT, 500.0), (7, ENDED, 500.0))
    assert made.stalled() == ""


def test_a_worker_reports_from_a_thread() -> None:
    found: list[Activity] = []
    with ActivityReporter(3, found.append, interval=0.01) as reporter:
        reporter.note(5, STEP)
        end = time.monotonic() + 10
        while not any(a.step == 5 for a in found) and time.monotonic() < end:
            time.sleep(0.01)
    *_, last, ended = found
    assert (last.rank, last.step, last.doing) == (3, 5, STEP) and last.seconds >= 0.0
    assert (ended.rank, ended.step, ended.doing) == (3, 5, ENDED)
    count = len(found)
    time.sleep(0.03)
    assert len(found) == count, "no reports after the end"
