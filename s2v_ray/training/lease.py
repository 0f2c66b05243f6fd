"""The lease of a run: one driver writes to a run, and one attempt of this driver commits its checkpoints.

    RUN/lease.json    the holder, the number of the attempt, and the committed checkpoints

An attempt is one start of the workers. A driver that takes the lease and workers that start both increase its number.
Every change replaces this one object by compare-and-swap (``conditional``), and a checkpoint counts only when it is
listed there. So a driver or a worker that was stopped and continues after another one took over cannot commit anything,
and it cannot remove what another attempt committed.

The holder renews the lease every ``HEARTBEAT_SECONDS``. Another driver takes it if the holder's process is known to
have ended, or if it did not change for ``EXPIRY_SECONDS`` on the other driver's own clock: clocks of different machines
are not compared.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from s2v_ray import conditional, storage

logger = logging.getLogger(__name__)

LEASE = "lease.json"
LEASE_SCHEMA = 1
HEARTBEAT_SECONDS = 10.0
"""Interval in which the holder renews the lease."""
EXPIRY_SECONDS = 60.0
"""Time without a change after which another driver may take the lease."""
POLL_SECONDS = 1.0
"""Interval in which a driver that waits for the expiry looks at the lease."""


class LeaseHeldError(storage.ArtifactError):
    """Another driver holds the lease of the run."""


class LeaseLostError(storage.ArtifactError):
    """Another driver has taken the lease: this one must not write to the run any more."""


class AttemptEndedError(LeaseLostError):
    """The same driver has started its workers anew: those of an earlier attempt must not write any more."""


class Holder(BaseModel):
    """The process that holds a lease.

    Attributes:
        token: random, different for every acquisition.
        host: name of the host.
        machine: identifies the running kernel and its process numbers; "" if unknown.
        pid: process number.
        started: start of the process in ticks of the kernel, as process numbers are used again; "" if unknown.
        job: id of the job that runs the driver, or "".
        since: time of the acquisition.
    """

    model_config = ConfigDict(frozen=True)

    token: str
    host: str
    machine: str
    pid: int
    started: str
    job: str
    since: str

    @classmethod
    def this_process(cls, job: str) -> Holder:
        """Describe this process."""
        pid = os.getpid()
        return cls(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=pid,
            started=_start_of(pid),
            job=job,
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        )

    def has_ended(self) -> bool:
        """Whether the process is known to have ended: it ran on this machine, and it is not there."""
        return bool(self.machine) and self.machine == _machine() and _start_of(self.pid) != self.started

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


class LeaseState(BaseModel):
    """Content of ``lease.json``.

    Attributes:
        schema_version: version of the format.
        write: random, different for every change, so that no two writers write the same bytes.
        holder: the driver that holds the lease; None if it was released.
        attempt: number of the newest attempt.
        checkpoints: step of each committed checkpoint -> number of the attempt that wrote it.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: int = LEASE_SCHEMA
    write: str = ""
    holder: Holder | None = None
    attempt: int = 0
    checkpoints: dict[int, int] = {}


@dataclass(frozen=True)
class Attempt:
    """An attempt of a driver, as its workers see it.

    Attributes:
        run: URI of the run folder.
        token: of the driver's lease.
        number: of the attempt.
    """

    run: str
    token: str
    number: int

    def check(self) -> None:
        """Check that no other driver and no newer attempt has taken over; a store that does not answer says nothing.

        Raises:
            LeaseLostError: one has.
        """
        with contextlib.suppress(storage.StoreError):
            self._check(read_state(self.run))

    def commit(self, step: int) -> None:
        """List the checkpoint of ``step``, which this attempt has written completely.

        Raises:
            LeaseLostError: another driver or a newer attempt has taken over; nothing is listed.
        """

        def add(state: LeaseState) -> LeaseState:
            self._check(state)
            return state.model_copy(update={"checkpoints": {**state.checkpoints, step: self.number}})

        _update(self.run, add)

    def retain(self, steps: Collection[int]) -> LeaseState:
        """Remove all checkpoints from the list except those of ``steps``; return the new state.

        Raises:
            LeaseLostError: another driver or a newer attempt has taken over; nothing is removed.
        """

        def drop(state: LeaseState) -> LeaseState:
            self._check(state)
            kept = {step: attempt for step, attempt in state.checkpoints.items() if step in steps}
            return state.model_copy(update={"checkpoints": kept})

        return _update(self.run, drop)

    def _check(self, state: LeaseState) -> None:
        _check_holder(state, self.run, self.token)
        if state.attempt != self.number:
            raise AttemptEndedError(
                f"{self.run}: attempt {self.number} of this driver has ended, its attempt {state.attempt} writes now"
            )


def read_state(run: str) -> LeaseState:
    """Read the state of a run's lease; that of a run without one is empty.

    Raises:
        ArtifactError: the file is damaged or of another schema.
        StoreError: the object store refuses or does not respond.
    """
    return _read(run)[0]


def begin_attempt(run: str, token: str) -> Attempt:
    """Begin a new attempt of the driver whose lease has ``token``; earlier attempts cannot commit any more.

    Raises:
        LeaseLostError: another driver holds the lease.
    """

    def begin(state: LeaseState) -> LeaseState:
        _check_holder(state, run, token)
        return state.model_copy(update={"attempt": state.attempt + 1})

    return Attempt(run, token, _update(run, begin).attempt)


def acquire(
    run: str,
    job: str = "",
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Take the lease of a run; return its token.

    Raises:
        LeaseHeldError: another driver holds it, and renewed it while this one was waiting for its expiry.
    """
    mine = Holder.this_process(job)
    observed: tuple[LeaseState, float] | None = None
    while True:
        state, etag = _read(run)
        expired = observed is not None and clock() - observed[1] >= EXPIRY_SECONDS
        if observed is not None and state != observed[0] and state.holder is not None:
            raise LeaseHeldError(
                f"another driver writes to {run}: {state.holder}. Name another folder, or end that process; "
                f"its lease then expires within {EXPIRY_SECONDS:.0f} s"
            )
        if state.holder is None or expired or state.holder.has_ended():
            try:
                _write(run, state.model_copy(update={"holder": mine, "attempt": state.attempt + 1}), etag)
                return mine.token
            except conditional.ConflictError:
                continue
        if observed is None:
            observed = state, clock()
            logger.info(
                "the lease of %s is held (%s): waiting up to %.0f s whether it is renewed",
                run,
                state.holder,
                EXPIRY_SECONDS,
            )
        sleep(POLL_SECONDS)


def renew(run: str, token: str) -> None:
    """Renew a lease.

    Raises:
        LeaseLostError: another driver holds it.
    """

    def same(state: LeaseState) -> LeaseState:
        _check_holder(state, run, token)
        return state

    _update(run, same)


def release(run: str, token: str) -> None:
    """Release a lease, so that another driver can take it at once; do nothing if another driver holds it."""

    def without_holder(state: LeaseState) -> LeaseState:
        _check_holder(state, run, token)
        return state.model_copy(update={"holder": None})

    try:
        _update(run, without_holder)
    except LeaseLostError:
        pass
    except OSError as e:  # includes StoreError; the lease expires
        logger.warning("the lease of %s could not be released (%s)", run, storage.scrub(str(e)))


@contextlib.contextmanager
def held(run: str, job: str = "") -> Iterator[str]:
    """Hold the lease of a run, renewed by a thread; gives its token.

    Raises:
        LeaseHeldError: another driver holds it.
    """
    token, stop = acquire(run, job), threading.Event()

    def keep() -> None:
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                renew(run, token)
            except LeaseLostError as e:
                logger.error("%s", e)  # the workers end at their next write
                return
            except Exception as e:  # whatever a store raises: the lease is valid until another driver takes it
                logger.warning("the lease of %s could not be renewed (%s)", run, storage.scrub(str(e)))

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield token
    finally:
        stop.set()
        thread.join()
        release(run, token)


def _check_holder(state: LeaseState, run: str, token: str) -> None:
    if state.holder is None or state.holder.token != token:
        by = f"{state.holder} holds it now" if state.holder else "it was released"
        raise LeaseLostError(
            f"this driver has lost the lease of {run} ({by}): it stops, and writes nothing more there. The run "
            "continues from its newest checkpoint"
        )


def _update(run: str, change: Callable[[LeaseState], LeaseState]) -> LeaseState:
    """Replace the state by ``change(state)``, and begin anew when another process was faster."""
    while True:
        state, etag = _read(run)
        try:
            return _write(run, change(state), etag)
        except conditional.ConflictError:
            continue


def _read(run: str) -> tuple[LeaseState, str | None]:
    uri = storage.join(run, LEASE)
    found = conditional.read(uri)
    if found is None:
        return LeaseState(), None
    try:
        state = LeaseState.model_validate_json(found[0])
    except ValidationError as e:
        raise storage.ArtifactError(f"{uri} is damaged: {e.errors()[0]['msg']}") from e
    if state.schema_version != LEASE_SCHEMA:
        raise storage.ArtifactError(
            f"{uri} was made by schema {state.schema_version} of the lease, this version reads {LEASE_SCHEMA}"
        )
    return state, found[1]


def _write(run: str, state: LeaseState, etag: str | None) -> LeaseState:
    state = state.model_copy(update={"write": uuid.uuid4().hex})
    conditional.write(storage.join(run, LEASE), (state.model_dump_json(indent=2) + "\n").encode(), etag)
    return state


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """Return the start of a process in ticks; "" if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie has ended
