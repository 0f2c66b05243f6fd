"""MkDocs hooks: writes the generated reference pages before the site is built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import render  # noqa: E402  # beside this file


def on_pre_build(config: Any) -> None:  # noqa: ARG001  # MkDocs' signature
    """Write docs/reference/*.md from the code."""
    render.write_reference()
