"""The whole of `s2v demo` from the command line. `test_chain.py` has its end only."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import cli
from s2v_ray.evaluation.rows import REFERENCE_ROWS, ROWS

pytestmark = [pytest.mark.minutes, pytest.mark.cluster]


def test_the_demo_ends_with_a_table_a_report_a_picture_and_a_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "demo",
        str(tmp_path / "demo"),
        "--recipe",
        "debug",
        "--set",
        "puppets.emotions=[neutral, angry]",
        "--set",
        "gan.steps=4",
    ]
    assert cli.main(argv) == 0
    said = capsys.readouterr().out
    assert all(row in said for row in ROWS.keys() - REFERENCE_ROWS)
    assert "no row reference baseline: no reference bundle was given" in said
    for name in ("report.html", "contact.png", "video.mp4"):
        path = next(line.split(": ", 1)[1] for line in said.splitlines() if line.endswith(name))
        assert Path(path).stat().st_size > 1000
    assert cli.main(argv) == 0
    assert "train: done before" in capsys.readouterr().out
