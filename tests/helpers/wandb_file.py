"""Reads the file in which Weights & Biases stores a run offline."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def records(file: Path) -> list[Any]:
    """The records of a ``.wandb`` file."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for data in _entries_of(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def _entries_of(content: bytes) -> Iterator[bytes]:
    """Entries of a file of W&B: 7 bytes of header, then LevelDB's log format (blocks of 32 KiB, entries in parts)."""
    at, entry = 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<4xHB", content[at : at + 7])
        entry += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""
