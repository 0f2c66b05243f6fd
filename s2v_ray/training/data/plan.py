"""Which clips each step takes: pure functions of the shard index, the seed, the step and the size of the whole batch.

An epoch is a sequence of row groups (8 clips each, the unit of reading), cut into lanes. Each step takes the next clips
of every lane, and a worker reads the lanes that its part of the batch comes from. So memory stays small, a row group is
read by one worker, and neighbours in a batch come from many places of the corpus. The plan does not depend on the
number of workers: a run that continues on another number of workers uses the same clips and windows, each once in an
epoch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from s2v_ray import shards, storage

LANE_CLIPS = 16
"""Clips of a lane among which the next one is drawn."""
MIN_LANE = 8
"""Smallest number of clips of a lane, if there are as many: one row group."""


@dataclass(frozen=True)
class ShardIndex:
    """A shard and, for each of its row groups, the rows that are long enough."""

    uri: str
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Row:
    """Location of a clip: row ``row`` of row group ``group`` of a shard."""

    uri: str
    group: int
    row: int


class PlannedClip(NamedTuple):
    """A clip in an epoch."""

    epoch: int
    row: Row


class RowGroupJob(NamedTuple):
    """Clips that are read together: rows of one row group in one epoch."""

    epoch: int
    uri: str
    group: int
    rows: tuple[int, ...]


def read_index(corpus: str, split: str, frames: int) -> list[ShardIndex]:
    """Read which clips of a split have at least ``frames`` frames; only footers and one column are read.

    Raises:
        ArtifactError: there is no shard, a damaged one, or no clip that is long enough.
    """

    def index(uri: str) -> ShardIndex:
        with shards.open_shard(uri) as f:
            groups = [f.read_row_group(g, ["num_frames"])["num_frames"].to_numpy() for g in range(f.num_row_groups)]
        return ShardIndex(uri, tuple(tuple(np.flatnonzero(n >= frames).tolist()) for n in groups))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(index, shards.shard_uris(corpus, split)))
    if not any(rows for shard in found for rows in shard.groups):
        raise storage.ArtifactError(
            f"the {split} split of {corpus} has no clip of {frames} frames or more: run `s2v ingest`, or use a larger "
            "share "
            "for it"
        )
    return found


def number_of_lanes(clips: int, batch: int) -> int:
    """Return the largest number of lanes that divides ``batch`` (over all workers) and leaves lanes long enough."""
    most = max(1, clips // MIN_LANE)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)


def lane_order(index: Sequence[ShardIndex], *, seed: int, epoch: int, lane: int, lanes: int) -> list[Row]:
    """Return the clips of a lane in an epoch, in order.

    Row groups are shuffled into a sequence that is cut into equal lanes; the clips of a lane are drawn from a window of
    ``LANE_CLIPS``. All lanes together contain every clip exactly once.
    """
    sequence = _epoch_sequence(tuple(index), seed, epoch)
    part = sequence[len(sequence) * lane // lanes : len(sequence) * (lane + 1) // lanes]
    rng = np.random.default_rng([seed, epoch, lane])
    window, order = part[:LANE_CLIPS], []
    for row in part[LANE_CLIPS:]:
        i = int(rng.integers(len(window)))
        order.append(window[i])
        window[i] = row
    return order + [window[i] for i in rng.permutation(len(window))]


@functools.lru_cache(maxsize=2)
def _epoch_sequence(index: tuple[ShardIndex, ...], seed: int, epoch: int) -> list[Row]:
    """Return all clips of an epoch, one row group after the other."""
    groups = [(shard.uri, g) for shard in index for g in range(len(shard.groups))]
    usable = {(shard.uri, g): rows for shard in index for g, rows in enumerate(shard.groups)}
    np.random.default_rng([seed, epoch]).shuffle(groups)
    return [Row(uri, g, row) for uri, g in groups for row in usable[uri, g]]


def planned_clips(
    index: Sequence[ShardIndex],
    *,
    seed: int,
    batch: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[PlannedClip]:
    """Yield the clips that a worker uses in the steps from ``start_step`` to ``steps``, in order.

    Args:
        index: all shards of the split.
        seed: seed of the run.
        batch: clips in a step over all workers; the shares of the workers differ by at most 1.
        steps: end of the run.
        start_step: first step.
        rank: this worker.
        world: number of workers.
    """
    total = sum(len(rows) for shard in index for rows in shard.groups)
    lanes = number_of_lanes(total, batch)
    per_lane = batch // lanes  # clips of a lane in a step
    mine = [divmod(position, per_lane) for position in range(batch * rank // world, batch * (rank + 1) // world)]
    orders: dict[int, tuple[int, list[Row]]] = {}  # lane -> its epoch, and its order in it
    for step in range(start_step, steps):
        for lane, offset in mine:
            length = total * (lane + 1) // lanes - total * lane // lanes
            epoch, position = divmod(step * per_lane + offset, length)
            if lane not in orders or orders[lane][0] != epoch:
                orders[lane] = epoch, lane_order(index, seed=seed, epoch=epoch, lane=lane, lanes=lanes)
            yield PlannedClip(epoch, orders[lane][1][position])


def segments(clips: Iterator[PlannedClip], size: int) -> Iterator[list[PlannedClip]]:
    """Cut a sequence of clips into segments of ``size``; the last one may be shorter."""
    while segment := list(itertools.islice(clips, size)):
        yield segment


def row_group_jobs(segment: Sequence[PlannedClip]) -> list[RowGroupJob]:
    """Group the clips of a segment by row group, in the order in which the row groups are first needed."""
    jobs: dict[tuple[int, str, int], list[int]] = {}
    for epoch, row in segment:
        jobs.setdefault((epoch, row.uri, row.group), []).append(row.row)
    return [RowGroupJob(*key, tuple(rows)) for key, rows in jobs.items()]
