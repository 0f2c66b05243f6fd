"""Shows log records on the console: live progress on a terminal, lines in a pipe or job log."""

from __future__ import annotations

import logging
import os
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

from s2v_ray import storage
from s2v_ray.logs import FORMAT, JsonHandler, Progress, progress_of

LINE_SECONDS = 5.0
"""Smallest interval between two progress lines of one stage in a pipe; the last one of a stage is always printed."""


def console_handler() -> logging.Handler:
    """Return the handler for the standard output as it is.

    Raises:
        ValueError: ``S2V_LOG_FORMAT`` has another value than "json" or "text".
    """
    chosen = os.environ.get(FORMAT, "text")
    if chosen not in ("json", "text"):
        raise ValueError(f"{FORMAT} is {chosen!r}: use json or text")
    if chosen == "json":
        return JsonHandler()
    console = Console(highlight=False, soft_wrap=True)
    return TerminalHandler(console) if console.is_terminal else LineHandler()


class LineHandler(logging.Handler):
    """Prints each message with the seconds since the start; progress of a stage at most every ``LINE_SECONDS``."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic()
        self._printed: dict[str, float] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        now, progress = time.monotonic(), progress_of(record)
        if progress is not None and not progress.finished:
            if now - self._printed.get(progress.stage, self.began - LINE_SECONDS) < LINE_SECONDS:
                return
            self._printed[progress.stage] = now
        print(f"[{now - self.began:7.1f} s] {storage.scrub(record.getMessage())}", flush=True)


class TerminalHandler(logging.Handler):
    """Shows one live line for each stage of work, and prints other messages above them."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._tasks: dict[str, TaskID] = {}
        self._bars = Bars(
            TextColumn("{task.description:<20}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", style="dim"),
            console=console,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Update a stage, or print a message."""
        progress = progress_of(record)
        if progress is not None:
            self._update(progress)
            return
        style = "yellow" if record.levelno >= logging.WARNING else None
        self.console.print(storage.scrub(record.getMessage()), style=style, markup=False)

    def close(self) -> None:
        """Stop the live display; the lines stay."""
        self._bars.stop()
        super().close()

    def _update(self, progress: Progress) -> None:
        if progress.stage not in self._tasks:
            if not self._tasks:
                self._bars.start()
            self._tasks[progress.stage] = self._bars.add_task(progress.stage, total=progress.total, figures="")
        figures = "  ".join(f"{name} {value:.3g}" for name, value in list(progress.figures.items())[:5])
        self._bars.update(
            self._tasks[progress.stage], completed=progress.done, total=progress.total, figures=figures, refresh=True
        )
