"""Drivers and workers of one run as threads that take turns: one request to the store for each turn, at random.

The clock is simulated. An actor that gets no turn for long is a process that was stopped with SIGSTOP, or cut off.
"""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from s2v_ray import conditional, storage
from s2v_ray.training import checkpoint, lease, saving

KEEP = 2
PATCHED: tuple[tuple[Any, str], ...] = (
    (conditional, "read"),
    (conditional, "write"),
    (storage, "write_bytes"),
    (storage, "remove"),
    (saving, "_remove_quietly"),
    (torch, "save"),
)
"""Each call of these takes a turn."""


class Killed(BaseException):
    """The process of an actor ended: no handler of the program runs for it."""


class Actor(threading.Thread):
    """A process. It waits for its turn before each request."""

    def __init__(self, world: World, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.world, self.work = world, work
        self.turn, self.waiting = threading.Semaphore(0), threading.Semaphore(0)
        self.killed = False
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.await_turn()
            self.work()
        except Killed:
            pass
        except Exception as e:
            self.error = e
        self.killed = True
        self.waiting.release()

    def await_turn(self) -> None:
        self.waiting.release()
        self.turn.acquire()
        if self.killed:
            raise Killed


class World:
    """All processes that write to a run, and what they may never do.

    Attributes:
        commits: number of checkpoints that were committed.
        takeovers: number of leases that were taken while another driver held them.
    """

    def __init__(self, run: str, seed: int) -> None:
        self.run, self.random, self.clock = run, random.Random(seed), 0.0
        self.actors: list[Actor] = []
        self.commits, self.takeovers = 0, 0
        self.writers: dict[threading.Thread, int] = {}
        self.state = lease.LeaseState()
        self.violations: list[Exception] = []
        self.inside = threading.local()

    def play(self, turns: int) -> None:
        """Let two drivers and their workers take turns."""
        for _ in range(2):
            self.spawn(self.driver)
        favourite: Actor | None = None
        for _ in range(turns):
            alive = [actor for actor in self.actors if not actor.killed]
            weights = [4 if actor.work != self.driver else 1 for actor in alive]
            self.clock += self.random.choice((1.0, 5.0, 30.0))
            if favourite not in alive or self.random.random() < 0.12:
                (favourite,) = self.random.choices(alive, weights)  # the others stand still for a while
            chosen = favourite if self.random.random() < 0.7 else self.random.choice(alive)
            assert chosen is not None
            if self.random.random() < 0.03:
                chosen.killed = True
                if chosen in self.actors[:2]:
                    self.actors[self.actors.index(chosen)] = self.spawn(self.driver, listed=False)
            chosen.turn.release()
            chosen.waiting.acquire()
        for actor in self.actors:
            if actor.is_alive() and not actor.killed:
                actor.killed = True
                actor.turn.release()
            actor.join()
        assert not self.violations, self.violations
        for step, attempt in self.state.checkpoints.items():
            self.check_complete(step, attempt)
        errors = [actor.error for actor in self.actors if actor.error is not None]
        assert not [e for e in errors if not isinstance(e, lease.LeaseLostError)], errors

    def spawn(self, work: Callable[[], None], *, listed: bool = True) -> Actor:
        actor = Actor(self, work)
        actor.waiting.acquire()
        if listed:
            self.actors.append(actor)
        return actor

    def driver(self) -> None:
        """Take the lease, start workers, start them anew at times, and renew the lease."""
        while True:
            try:
                token = lease.acquire(self.run, clock=lambda: self.clock, sleep=lambda _: self.pause())
            except lease.LeaseHeldError:
                self.pause()
                continue
            try:
                while True:
                    self.spawn(lambda held=token: self.worker(held))  # earlier workers may be stopped, not ended
                    for _ in range(self.random.randrange(2, 12)):
                        lease.renew(self.run, token)
            except lease.LeaseLostError:
                continue

    def worker(self, token: str) -> None:
        """Worker 0: continue from the newest checkpoint and write one after the other."""
        attempt = lease.begin_attempt(self.run, token)
        self.writers[threading.current_thread()] = attempt.number
        found = checkpoint.latest(self.run)
        saver = saving.Saver(attempt, KEEP, patience=0.0)
        for step in range(found.step + 1 if found else 1, 100):
            saver._write(step, {"worker-00000.pt": {"step": step, "attempt": attempt.number}}, {})
            saver.wait()

    def pause(self) -> None:
        current = threading.current_thread()
        if isinstance(current, Actor):
            current.await_turn()

    def check(self, call: Callable[..., None], *args: Any) -> None:
        """Record a failed check: the program may catch the exception."""
        try:
            call(*args)
        except Exception as e:
            self.violations.append(e)

    def changed(self, after: lease.LeaseState) -> None:
        """Check a change of the lease that took effect."""
        before, self.state = self.state, after
        assert after.attempt >= before.attempt
        if after.holder != before.holder and before.holder is not None and after.holder is not None:
            self.takeovers += 1
        if after.checkpoints == before.checkpoints:
            return
        assert self.writers[threading.current_thread()] == before.attempt == after.attempt, "two writers"
        added = after.checkpoints.items() - before.checkpoints.items()
        assert {attempt for _, attempt in added} <= {after.attempt}
        self.commits += len(added)
        assert max(after.checkpoints) >= max(before.checkpoints, default=0)
        assert len(after.checkpoints) >= min(KEEP, len(before.checkpoints))
        for step, attempt in added:
            self.check_complete(step, attempt)

    def removed(self, uri: str) -> None:
        """Check that no committed checkpoint is removed."""
        for step, attempt in self.state.checkpoints.items():
            assert uri not in (
                checkpoint.folder_of_attempt(self.run, step, attempt),
                checkpoint.uri_of(self.run, step),
            ), uri

    def check_complete(self, step: int, attempt: int) -> None:
        folder = checkpoint.folder_of_attempt(self.run, step, attempt)
        assert checkpoint.open_checkpoint(folder).step == step
        data = storage.read_bytes(f"{folder}/worker-00000.pt")
        assert torch.load(io.BytesIO(data)) == {"step": step, "attempt": attempt}


@contextmanager
def observed(world: World) -> Iterator[None]:
    """Make every request of an actor wait for its turn, and check its effect."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in PATCHED:
            patch.setattr(module, name, _in_turn(world, name, getattr(module, name)))
        patch.setattr(saving.os, "fsync", lambda descriptor: None)
        patch.setattr(storage, "versions", dict)
        yield


def _in_turn(world: World, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def request(*args: Any, **kwargs: Any) -> Any:
        if getattr(world.inside, "request", False):  # a part of another request
            return call(*args, **kwargs)
        world.pause()
        world.inside.request = True
        try:
            if "remove" in name:
                world.check(world.removed, str(args[0]))
            result = call(*args, **kwargs)
            if name == "write":
                world.check(world.changed, lease.LeaseState.model_validate_json(args[1]))
            return result
        finally:
            world.inside.request = False

    return request
