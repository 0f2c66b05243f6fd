"""A run has one writer: leases, attempts, and 200 random interleavings of two drivers and their workers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.training import lease
from tests.helpers.interleaving import World, observed
from tests.helpers.logs import logged

INTERLEAVINGS = 200


class Clock:
    """Time passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def acquire(run: str) -> str:
    clock = Clock()
    return lease.acquire(run, clock=clock, sleep=clock.sleep)


def test_a_second_driver_gets_one_error_that_names_the_holder(tmp_path: Path) -> None:
    run, clock = str(tmp_path), Clock()
    token = lease.acquire(run, "job-7")

    def renew_meanwhile(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now > 5:
            lease.renew(run, token)

    expected = (
        rf"^another driver writes to {run}: process {os.getpid()} on \S+, job job-7, since 20..-..-.. ..:..:.. UTC\. "
        r"Name another folder, or end that process; its lease then expires within 60 s$"
    )
    with logged() as lines, pytest.raises(lease.LeaseHeldError, match=expected):
        lease.acquire(run, clock=clock, sleep=renew_meanwhile)
    assert clock.now < lease.HEARTBEAT_SECONDS and len(lines) == 1
    assert lines[0].endswith("waiting up to 60 s whether it is renewed")


def test_a_lease_that_is_not_renewed_is_taken_over_after_its_expiry(tmp_path: Path) -> None:
    run, clock = str(tmp_path), Clock()
    first = lease.acquire(run)
    attempt = lease.begin_attempt(run, first)
    second = lease.acquire(run, clock=clock, sleep=clock.sleep)
    assert clock.now == lease.EXPIRY_SECONDS and first != second
    message = "this driver has lost the lease of .* holds it now"
    for late in (attempt.check, lambda: attempt.commit(1), lambda: attempt.retain([]), lambda: lease.renew(run, first)):
        with pytest.raises(lease.LeaseLostError, match=message):
            late()
    lease.release(run, first)  # it is not the holder's
    assert lease.begin_attempt(run, second).number == 4


def test_a_released_lease_is_taken_at_once(tmp_path: Path) -> None:
    clock = Clock()
    with lease.held(str(tmp_path)) as first:
        attempt = lease.begin_attempt(str(tmp_path), first)
    with pytest.raises(lease.LeaseLostError, match="it was released"):
        attempt.commit(1)
    lease.acquire(str(tmp_path), clock=clock, sleep=clock.sleep)
    assert clock.now == 0.0


def test_the_lease_of_a_process_that_has_ended_on_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    program = f"from s2v_ray.training import lease; lease.acquire({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", program], check=True)
    holder, clock = lease.read_state(str(tmp_path)).holder, Clock()
    assert holder is not None and holder.has_ended() and holder.pid != os.getpid()
    lease.acquire(str(tmp_path), clock=clock, sleep=clock.sleep)
    assert clock.now == 0.0
    own = lease.Holder.this_process("")
    assert not own.has_ended()
    assert own.model_copy(update={"started": "1"}).has_ended(), "its number belongs to another process"
    assert not own.model_copy(update={"started": "1", "machine": "other"}).has_ended()


STOPPED = """
import sys
from s2v_ray.training import lease
lease.HEARTBEAT_SECONDS = 0.05
with lease.held(sys.argv[1]) as token:
    attempt = lease.begin_attempt(sys.argv[1], token)
    attempt.commit(1)
    print("committed", flush=True)
    sys.stdin.readline()
    try:
        attempt.commit(9)
    except lease.LeaseLostError as e:
        print("lost:", e, flush=True)
"""


def test_a_driver_that_was_stopped_while_another_took_over_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "EXPIRY_SECONDS", 0.5)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "committed\n"
        process.send_signal(signal.SIGSTOP)
        attempt = lease.begin_attempt(str(tmp_path), lease.acquire(str(tmp_path)))
        attempt.commit(2)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("lost: this driver has lost the lease of ")
    assert lease.read_state(str(tmp_path)).checkpoints == {1: 2, 2: attempt.number}
    attempt.check()


def test_a_new_attempt_of_the_same_driver_ends_the_earlier_one(tmp_path: Path) -> None:
    token = lease.acquire(str(tmp_path))
    first = lease.begin_attempt(str(tmp_path), token)
    first.commit(1)
    second = lease.begin_attempt(str(tmp_path), token)
    with pytest.raises(lease.AttemptEndedError, match=r"attempt 2 of this driver has ended, its attempt 3 writes now"):
        first.commit(2)
    second.commit(3)
    assert lease.read_state(str(tmp_path)).checkpoints == {1: 2, 3: 3}
    assert second.retain([3]).checkpoints == {3: 3}


def test_attempts_that_begin_at_once_have_different_numbers(tmp_path: Path) -> None:
    token, numbers = lease.acquire(str(tmp_path)), []
    threads = [
        threading.Thread(target=lambda: numbers.append(lease.begin_attempt(str(tmp_path), token).number))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(2, 10))


def test_the_holder_renews_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    with logged() as lines, lease.held(str(tmp_path)) as token:
        first = lease.read_state(str(tmp_path)).write
        end = time.monotonic() + 10
        while lease.read_state(str(tmp_path)).write == first and time.monotonic() < end:
            time.sleep(0.01)
        assert lease.read_state(str(tmp_path)).write != first
        lease.release(str(tmp_path), token)
        while not lines and time.monotonic() < end:
            time.sleep(0.01)
    assert len(lines) == 1 and lines[0].startswith("this driver has lost the lease of")


def test_a_damaged_lease_is_named(tmp_path: Path) -> None:
    (tmp_path / "lease.json").write_text("{")
    with pytest.raises(storage.ArtifactError, match=r"lease\.json is damaged"):
        lease.read_state(str(tmp_path))
    (tmp_path / "lease.json").write_text('{"schema_version": 9}')
    with pytest.raises(storage.ArtifactError, match="schema 9 of the lease, this version reads 1"):
        lease.read_state(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "s3"])
def test_interleaved_drivers_never_write_both_and_lose_no_checkpoint(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, quiet: None
) -> None:
    root = str(tmp_path) if where == "local" else storage.join(request.getfixturevalue("bucket"), tmp_path.name)
    commits = takeovers = attempts = 0
    count = INTERLEAVINGS if where == "local" else INTERLEAVINGS // 4
    for seed in range(count):
        world = World(storage.join(root, f"run-{seed}"), seed)
        with observed(world):
            world.play(turns=60 if where == "local" else 30)  # a request to S3 takes 10 ms
        commits, takeovers = commits + world.commits, takeovers + world.takeovers
        attempts += world.state.attempt
    assert commits > count / 4 and takeovers > count / 10 and attempts > 2 * count
