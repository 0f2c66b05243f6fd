"""Log messages of the package as a list, for tests of what long work reports."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from s2v_ray import logs


class _ListHandler(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """Within the context, messages of level INFO and above are appended to the list."""
    lines: list[str] = []
    with logs.installed(_ListHandler(lines)):
        yield lines
