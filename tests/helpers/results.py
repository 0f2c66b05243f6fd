"""Writes the figures of a benchmark in the format of ``docs/results``, which ``docs/render.py`` shows as a table."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from s2v_ray import storage

ROOT = Path(__file__).parents[2]


def write_result(uri: str | os.PathLike[str], figures: Any, argv: Sequence[str] = sys.argv) -> None:
    """Write figures with their command, commit, machine and date.

    Args:
        uri: where to write; ``docs/results/NAME.json`` to publish.
        figures: plain data. A list of flat records becomes a row each; else each value becomes a row with its path.
        argv: command line of the benchmark.
    """
    columns, rows = as_table(figures)
    title = (getattr(sys.modules["__main__"], "__doc__", None) or "").strip().splitlines()[:1]
    result = {
        "title": title[0].rstrip(".") if title else Path(argv[0]).stem,
        "command": command_of(argv),
        "commit": commit(),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "columns": columns,
        "rows": rows,
    }
    storage.write_json(storage.absolute(str(uri)), result)


def as_table(figures: Any) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of plain data."""
    if isinstance(figures, list) and figures and all(_is_flat(record) for record in figures):
        columns = list(dict.fromkeys(key for record in figures for key in record))
        return [str(c) for c in columns], [[record.get(c) for c in columns] for record in figures]
    return ["figure", "value"], [[path, value] for path, value in _leaves(figures, "")]


def command_of(argv: Sequence[str]) -> str:
    """The command without its ``--json``, as a module: ``python -m tests.bench.NAME ...``."""
    words, skip = [], False
    for word in argv[1:]:
        if not skip and word != "--json":
            words.append(word)
        skip = word == "--json"
    file = Path(argv[0]).resolve()
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts) if file.is_relative_to(ROOT) else file.stem
    return shlex.join(["python", "-m", module, *words])


def machine() -> str:
    """Processor, number of CPUs and GPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} CPUs, {gpu}"


def commit() -> str:
    """The current commit, abbreviated."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _is_flat(record: Any) -> bool:
    return isinstance(record, Mapping) and not any(isinstance(v, Mapping | list | tuple) for v in record.values())


def _leaves(data: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    elif isinstance(data, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in data):
        for n, value in enumerate(data):
            yield from _leaves(value, f"{path}.{n}".lstrip("."))
    else:
        yield (
            path,
            ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in data)
            if isinstance(data, list | tuple)
            else data,
        )
