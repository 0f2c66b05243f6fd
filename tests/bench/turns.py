"""Processes that compute one after another: a benchmark gives the turn, the others wait."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from s2v_ray.clip import ClipBatch

PATIENCE = 600.0
"""Seconds after which a side that says nothing is taken for dead."""

Turn = dict[str, float]  # steps, seconds, seconds waited for data, median seconds of a step


def take_turns(address: tuple[str, int], sides: dict[str, Iterator[ClipBatch]]) -> Iterator[ClipBatch]:
    """Yield a process's batches from the side whose turn it is, for the requested steps, and report their times."""
    with socket.create_connection(address) as connection, connection.makefile("rw") as talk:
        print(json.dumps(list(sides)), file=talk, flush=True)
        while turn_for := json.loads(talk.readline() or "null"):
            name, steps = turn_for
            if not steps:
                return
            waited, marks = 0.0, [time.perf_counter()]
            for _ in range(steps):
                batch = next(sides[name])
                waited += time.perf_counter() - marks[-1]
                yield batch
                marks.append(time.perf_counter())
            turn: Turn = {
                "steps": steps,
                "seconds": marks[-1] - marks[0],
                "waited": waited,
                "step": statistics.median(np.diff(marks)),
            }
            print(json.dumps(turn), file=talk, flush=True)
        raise RuntimeError("the bench has ended before this side did")


class Turns:
    """Gives the turn to one side after another."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(PATIENCE)
        self.address: tuple[str, int] = self._server.getsockname()
        self._talks: dict[str, Any] = {}
        self._connections: list[socket.socket] = []

    def wait_for(self, sides: int) -> None:
        """Until so many sides have said that they are ready. Raises TimeoutError."""
        while len(self._talks) < sides:
            connection, _ = self._server.accept()
            connection.settimeout(PATIENCE)
            self._connections.append(connection)
            talk = connection.makefile("rw")
            self._talks |= dict.fromkeys(json.loads(talk.readline()), talk)

    def run(self, side: str, steps: int) -> Turn:
        """Raises RuntimeError where the side is no more."""
        talk = self._talks[side]
        print(json.dumps([side, steps]), file=talk, flush=True)
        if not (answer := talk.readline()):
            raise RuntimeError(f"{side} has ended too early")
        turn: Turn = json.loads(answer)
        return turn

    def end(self, well: bool) -> None:
        """No more turns: all sides go on to their ends, or where something went wrong fail."""
        for talk in set(self._talks.values()) if well else ():
            print(json.dumps(["", 0]), file=talk, flush=True)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.close()
