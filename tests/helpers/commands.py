"""Commands that must fail, and what they leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import cli

EMOTIONS = ("neutral", "happy")
"""Emotions of the bundles that the fixtures in tests/cli/conftest.py make."""


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """Runs a command that must fail by a user's mistake; returns its message."""
    capsys.readouterr()
    assert cli.main([str(a) for a in argv]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2v: ")]
    assert len(lines) == 1, "one message, not a traceback"
    assert lines[0].startswith("s2v: error: ")
    return lines[0]


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
