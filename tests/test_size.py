"""Limits of size in the package: columns, lines of a function, parameters, lines of a file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import s2v_ray

PACKAGE = Path(s2v_ray.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
COLUMNS, FUNCTION_LINES, PARAMETERS, FILE_LINES = 120, 60, 8, 400


def too_large(file: Path, text: str) -> list[str]:
    """What exceeds a limit. The options of a command are its parameters, so ``cli/`` may have more of them."""
    lines = text.splitlines()
    found = [f"{file.name}:{n}: {len(line)} columns" for n, line in enumerate(lines, 1) if len(line) > COLUMNS]
    if len(lines) > FILE_LINES:
        found.append(f"{file.name}: {len(lines)} lines")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            parameters = len([name for name in names if name not in ("self", "cls")])
            if length > FUNCTION_LINES:
                found.append(f"{file.name}: {node.name} has {length} lines")
            if parameters > PARAMETERS and file.parent.name != "cli":
                found.append(f"{file.name}: {node.name} has {parameters} parameters")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_files_are_within_the_limits(file: Path) -> None:
    assert not too_large(file, file.read_text())


def test_the_check_finds_each_excess() -> None:
    body = "\n    pass" * 60
    text = f"def long():{body}\n\n\ndef wide(a, b, c, d, e, f, g, h, i): ...\n\n\nx = '{'y' * 120}'\n" + "\n" * 400
    assert too_large(Path("media/x.py"), text) == [
        "x.py:67: 126 columns",
        "x.py: 467 lines",
        "x.py: long has 61 lines",
        "x.py: wide has 9 parameters",
    ]
    assert not too_large(Path("cli/x.py"), "def wide(a, b, c, d, e, f, g, h, i): ...\n")
