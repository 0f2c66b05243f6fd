"""Help, usage and start-up of the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from s2v_ray import cli

COMMANDS = (
    "puppets",
    "ingest",
    "offsets",
    "teach",
    "distill",
    "train",
    "evaluate",
    "tune",
    "export",
    "generate",
    "serve",
    "study",
    "plan",
    "submit",
)
COMMANDS += ("demo", "doctor", "recipes")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_names_the_keys_of_its_json(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "JSON result:" in text and re.search(r"--json +PATH", text)


@pytest.mark.parametrize("argv", [[], ["dance"], ["train", "corpus", "run"], ["puppets"]])
def test_wrong_usage_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 2
    assert "Usage: s2v" in capsys.readouterr().err


def test_help_and_generate_import_no_ray(generator: Path, speech: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    argv = ["generate", "--bundle", str(generator), str(speech), "-o", str(out)]
    code = (
        "import sys; from s2v_ray import cli; assert not {'ray', 'torch'} & set(sys.modules); "
        f"cli.main({argv}); print('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert out.stat().st_size > 0
