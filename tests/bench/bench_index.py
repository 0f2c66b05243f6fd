"""Requests and seconds from the start of a run to the first planned clips, for a corpus of a million clips.

    python -m tests.bench.bench_index URI [--clips 1000000] [--ranks 64] [--json PATH]

Writes a manifest and an index to ``URI`` (S3 or a folder), without any shard, and plans the clips of the first
``FIRST_CLIPS`` windows of one worker of ``--ranks``, and of a single worker.
"""

from __future__ import annotations

import argparse
import itertools
import pickle
import time
from typing import Any

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.split_index import SplitIndex, read_index, write_index
from s2v_ray.training.data.plan import EpochOrder, planned_clips
from s2v_ray.training.data.ray_stream import FIRST_CLIPS
from tests.helpers.results import write_result

SHARD_CLIPS, BATCH, STEPS = 64, 128, 100_000


class Requests:
    """Counts requests to S3."""

    def __init__(self, uri: str) -> None:
        self.sent = 0
        fs = storage.filesystem(uri)[0]
        if hasattr(fs, "s3"):
            fs.connect()
            fs.s3.meta.events.register("before-send.s3", self._count)

    def _count(self, **_: Any) -> None:
        self.sent += 1


def write_corpus(uri: str, clips: int) -> None:
    """Manifest and index of clips of 25 to 250 frames."""
    lengths = np.random.default_rng(0).integers(25, 251, clips).tolist()
    parts = [lengths[at : at + SHARD_CLIPS] for at in range(0, clips, SHARD_CLIPS)]
    write_index(uri, "train", parts)
    splits = {"train": {"clips": clips, "shards": len(parts)}}
    storage.write_manifest(uri, "corpus", shards.CORPUS_SCHEMA, size=128, splits=splits)


def plan(index: SplitIndex, ranks: int) -> float:
    """Seconds to the first planned clips of the last of ``ranks`` workers."""
    began = time.perf_counter()
    order = EpochOrder(index, 25, seed=0)
    clips = planned_clips(order, batch=BATCH, steps=STEPS, rank=ranks - 1, world=ranks)
    list(itertools.islice(clips, FIRST_CLIPS))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("uri", metavar="URI")
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--json")
    options = parser.parse_args()
    write_corpus(options.uri, options.clips)
    requests = Requests(options.uri)
    began = time.perf_counter()
    index = read_index(options.uri, "train")
    read = time.perf_counter() - began
    found = {
        "requests of the worker that reads": requests.sent,
        "requests of each other worker": 0,
        "seconds: read the index": read,
        "seconds: plan, a single worker": plan(index, 1),
        f"seconds: plan, one of {options.ranks}": plan(index, options.ranks),
        "MB that are sent to each other worker": len(pickle.dumps(index)) / 1e6,
    }
    for name, value in found.items():
        print(f"{name:42}{value:8.2f}")
    if options.json:
        write_result(options.json, found)


if __name__ == "__main__":
    main()
