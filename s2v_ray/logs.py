"""Log records of long work: ordinary ``logging`` messages of the package's loggers that also say how far the work is.

Every module logs to ``logging.getLogger(__name__)``. ``log_progress`` attaches a ``Progress`` to a record. The handler
decides what is shown: the command line draws live progress on a terminal, and elsewhere prints lines at most every
few seconds (``cli.console``). Users of the library see ordinary log messages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from s2v_ray.errors import scrub

PACKAGE = "s2v_ray"
"""The parent of all loggers of this package."""
FORMAT = "S2V_LOG_FORMAT"
"""Environment variable: "json" for one JSON object per record."""


_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default={})  # noqa: B039  # never changed in place


@dataclass(frozen=True)
class Progress:
    """How far one stage of long work is.

    Attributes:
        stage: name of the stage, such as "ingest" or "gan".
        done: units that are done.
        total: units in all.
        unit: what is counted.
        figures: current values worth showing, by name: losses, clips per second.
        seconds_left: estimated remaining time, or None if unknown.
    """

    stage: str
    done: int
    total: int
    unit: str = "steps"
    figures: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None

    @property
    def finished(self) -> bool:
        """Whether all units are done."""
        return self.done >= self.total


def log_progress(logger: logging.Logger, progress: Progress, message: str, *args: object) -> None:
    """Logs ``message % args`` at level INFO with ``progress`` attached to the record as ``record.progress``."""
    logger.info(message, *args, extra={"progress": progress}, stacklevel=2)


def progress_of(record: logging.LogRecord) -> Progress | None:
    """The ``Progress`` attached to a record, or None."""
    progress = getattr(record, "progress", None)
    return progress if isinstance(progress, Progress) else None


@contextmanager
def identified(**ids: str) -> Iterator[None]:
    """Within the context, records of this thread or task carry these ids (run, job, request, ...); "" for none."""
    before = _ids.set({**_ids.get(), **{name: value for name, value in ids.items() if value}})
    try:
        yield
    finally:
        _ids.reset(before)


def current_ids() -> dict[str, str]:
    """The ids of the current context, to be passed to ``identified`` in another process."""
    return dict(_ids.get())


def ids_of(record: logging.LogRecord) -> Mapping[str, str]:
    """The ids of a record: those it came with from another process, or those of the current context."""
    own: Mapping[str, str] | None = getattr(record, "ids", None)
    return _ids.get() if own is None else own


def to_json(record: logging.LogRecord) -> str:
    """A record as one line of JSON: time (UTC), level, logger, message, its ids, and progress if it has one."""
    progress = progress_of(record)
    fields = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **ids_of(record),
    }
    return json.dumps(fields if progress is None else {**fields, "progress": asdict(progress)})


class JsonHandler(logging.Handler):
    """Prints every record as one line of JSON."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        print(scrub(to_json(record)), flush=True)


def record_to_dict(record: logging.LogRecord) -> dict[str, Any]:
    """A record as plain values, to be sent from a worker to the driver."""
    progress = progress_of(record)
    return {
        "name": record.name,
        "levelno": record.levelno,
        "levelname": record.levelname,
        "msg": record.getMessage(),
        "created": record.created,
        "ids": dict(ids_of(record)),
        "progress": None if progress is None else asdict(progress),
    }


def handle_dict(values: Mapping[str, Any]) -> None:
    """Hands a record made by ``record_to_dict`` to the logger of its name in this process."""
    progress = values["progress"]
    record = logging.makeLogRecord({**values, "progress": None if progress is None else Progress(**progress)})
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


@contextmanager
def installed(handler: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """Within the context, ``handler`` receives the package's records of at least ``level``."""
    logger = logging.getLogger(PACKAGE)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
