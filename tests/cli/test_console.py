"""Progress on the console: rate-limited lines in a pipe, one live line for each stage on a terminal."""

from __future__ import annotations

import io
import json
import logging

import pytest
from rich.console import Console

from s2v_ray import logs
from s2v_ray.cli import console
from s2v_ray.cli.console import LineHandler, TerminalHandler
from s2v_ray.logs import Progress, log_progress

logger = logging.getLogger("s2v_ray.test")


def test_lines_of_a_stage_are_limited_and_the_last_is_always_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with logs.installed(LineHandler()):
        for step in range(1, 13):
            now[0] += 1.0
            log_progress(logger, Progress("gan", step, 12), "gan %d/12", step)
        logger.info("wrote %s", "file")
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["gan 1/12", "gan 6/12", "gan 11/12", "gan 12/12", "wrote file"]


def test_secrets_are_removed_from_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with logs.installed(LineHandler()):
        logger.warning("no answer from http://user:secret@host/")
    assert "secret" not in capsys.readouterr().out


def test_a_terminal_shows_one_line_for_each_stage() -> None:
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=120, highlight=False)
    with logs.installed(TerminalHandler(terminal)):
        for step in (1, 12):
            log_progress(logger, Progress("gan", step, 12, figures={"loss": 0.5}), "not printed as a line")
        log_progress(logger, Progress("evaluate", 1, 2), "not printed as a line")
        logger.info("a message [with] brackets")
    text = out.getvalue()
    assert "a message [with] brackets" in text and "not printed as a line" not in text
    lines = text.splitlines()
    assert any("gan" in line and "12/12" in line and "loss 0.5" in line for line in lines)
    assert any("evaluate" in line and "1/2" in line for line in lines)


def test_json_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(console.FORMAT, "json")
    with logs.installed(console.console_handler()), logs.identified(run="r"):
        logger.info("no answer from http://user:secret@host/")
        log_progress(logger, Progress("gan", 1, 12), "gan 1/12")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "secret" not in first["message"] and first["run"] == "r"
    assert second["progress"]["total"] == 12
    monkeypatch.setenv(console.FORMAT, "xml")
    with pytest.raises(ValueError, match="json or text"):
        console.console_handler()


def test_a_pipe_gets_lines() -> None:
    assert isinstance(console.console_handler(), LineHandler)
