"""Log records with progress, and their way from a worker to the driver."""

from __future__ import annotations

import json
import logging

import pytest

from s2v_ray import logs
from s2v_ray.logs import Progress, handle_dict, log_progress, progress_of, record_to_dict


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record)


def test_a_record_survives_the_way_to_another_process() -> None:
    logger, first, second = logging.getLogger("s2v_ray.test.worker"), Records(), Records()
    progress = Progress("gan", 3, 12, figures={"loss": 0.5}, seconds_left=2.0)
    with logs.installed(first):
        log_progress(logger, progress, "gan %d/%d", 3, 12)
    (sent,) = first.seen
    with logs.installed(second):
        handle_dict(record_to_dict(sent))
    (received,) = second.seen
    assert received.getMessage() == "gan 3/12" and received.name == "s2v_ray.test.worker"
    assert progress_of(received) == progress


def test_records_carry_the_ids_of_their_context() -> None:
    logger, records = logging.getLogger("s2v_ray.test"), Records()
    with logs.installed(records), logs.identified(run="s3://b/run", job=""):
        with logs.identified(trial="3"):
            logger.info("inner")
            inner = record_to_dict(records.seen[-1])
            assert logs.current_ids() == {"run": "s3://b/run", "trial": "3"}
        logger.info("outer")
        handle_dict(inner)
        found = [json.loads(logs.to_json(record)) for record in records.seen[1:]]
    assert [(f["message"], f["run"], f.get("trial")) for f in found] == [
        ("outer", "s3://b/run", None),
        ("inner", "s3://b/run", "3"),
    ]
    assert logs.current_ids() == {}


def test_a_record_as_json() -> None:
    record = logging.makeLogRecord({"name": "s2v_ray.x", "levelname": "WARNING", "msg": 'a "b"', "created": 0.25})
    record.progress = Progress("gan", 1, 2)
    found = json.loads(logs.to_json(record))
    assert found["time"] == "1970-01-01T00:00:00.250+00:00"
    assert (found["level"], found["logger"], found["message"]) == ("WARNING", "s2v_ray.x", 'a "b"')
    assert found["progress"]["done"] == 1


def test_levels_below_are_not_handled() -> None:
    records = Records()
    with logs.installed(records, logging.WARNING):
        logging.getLogger("s2v_ray.test").info("not shown")
        handle_dict(
            {"name": "s2v_ray.test", "levelno": logging.INFO, "levelname": "INFO", "msg": "no", "progress": None}
        )
    assert records.seen == []


def test_the_handler_is_removed_and_the_level_restored() -> None:
    package = logging.getLogger(logs.PACKAGE)
    before, handlers = package.level, list(package.handlers)
    with pytest.raises(ValueError), logs.installed(Records()):
        raise ValueError
    assert (package.level, package.handlers) == (before, handlers)


@pytest.mark.parametrize(("done", "finished"), [(0, False), (11, False), (12, True)])
def test_progress_is_finished_with_its_last_unit(done: int, finished: bool) -> None:
    assert Progress("gan", done, 12).finished == finished
