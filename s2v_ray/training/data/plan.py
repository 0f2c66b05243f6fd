"""Which clips each step takes: pure functions of the index, the seed, the step and the size of the whole batch.

An epoch is a sequence of row groups (8 clips each, the unit of reading), cut into lanes. Each step takes the next clips
of every lane, and a worker reads the lanes that its part of the batch comes from. So memory stays small, a row group is
read by one worker, and neighbours in a batch come from many places of the corpus. The plan does not depend on the
number of workers: a run that continues on another number of workers uses the same clips and windows, each once in an
epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from s2v_ray import storage
from s2v_ray.split_index import SplitIndex

LANE_CLIPS = 16
"""Clips of a lane among which the next one is drawn."""
MIN_LANE = 8
"""Smallest number of clips of a lane, if there are as many: one row group."""
KEPT_EPOCHS = 2
"""Epochs whose sequence is kept: lanes enter an epoch at different steps."""


class Row(NamedTuple):
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


class EpochOrder:
    """The clips of a split that are long enough, and their order in each epoch.

    Args:
        index: index of the split.
        frames: smallest number of frames of a clip.
        seed: seed of the run.

    Raises:
        ArtifactError: no clip is long enough.
    """

    def __init__(self, index: SplitIndex, frames: int, seed: int) -> None:
        self.index, self.seed = index, seed
        self._usable = np.flatnonzero(index.frames >= frames)
        if not len(self._usable):
            raise storage.ArtifactError(
                f"the {index.split} split of {index.corpus} has no clip of {frames} frames or more: run `s2v ingest`, "
                "or use a larger share for it"
            )
        self._starts = np.searchsorted(self._usable, index.starts)  # of each row group among the usable clips
        self._sequences: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        """Return the number of clips in an epoch."""
        return len(self._usable)

    def row(self, clip: int) -> Row:
        """Return the location of a clip, which is given by its position in the index."""
        index = self.index
        group = int(np.searchsorted(index.starts, clip, side="right")) - 1
        uri = index.shard_uri(int(index.shards[group]))
        return Row(uri, int(index.groups[group]), int(clip - index.starts[group]))

    def lane(self, epoch: int, lane: int, lanes: int) -> list[int]:
        """Return the clips of a lane in an epoch, in order.

        Row groups are shuffled into a sequence that is cut into equal lanes; the clips of a lane are drawn from a
        window of ``LANE_CLIPS``. All lanes together contain every clip exactly once.
        """
        sequence = self._sequence(epoch)
        part = sequence[len(sequence) * lane // lanes : len(sequence) * (lane + 1) // lanes].tolist()
        rng = np.random.default_rng([self.seed, epoch, lane])
        window, order = part[:LANE_CLIPS], []
        for i, clip in zip(rng.integers(len(window), size=len(part) - len(window)), part[LANE_CLIPS:], strict=True):
            order.append(window[i])
            window[i] = clip
        return order + [window[i] for i in rng.permutation(len(window))]

    def _sequence(self, epoch: int) -> np.ndarray:
        """Return all clips of an epoch, one row group after the other; those of the last two epochs are kept."""
        if epoch not in self._sequences:
            self._sequences = dict([*self._sequences.items()][1 - KEPT_EPOCHS :])
            groups = np.arange(len(self.index.groups))
            np.random.default_rng([self.seed, epoch]).shuffle(groups)
            sizes = np.diff(self._starts)[groups]
            begins = np.repeat(self._starts[:-1][groups] - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
            self._sequences[epoch] = self._usable[begins + np.arange(len(self._usable))]
        return self._sequences[epoch]


def number_of_lanes(clips: int, batch: int) -> int:
    """Return the largest number of lanes that divides ``batch`` (over all workers) and leaves lanes long enough."""
    most = max(1, clips // MIN_LANE)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)


def planned_clips(
    order: EpochOrder,
    *,
    batch: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[PlannedClip]:
    """Yield the clips that a worker uses in the steps from ``start_step`` to ``steps``, in order.

    Args:
        order: of the clips of the split.
        batch: clips in a step over all workers; the shares of the workers differ by at most 1.
        steps: end of the run.
        start_step: first step.
        rank: this worker.
        world: number of workers.
    """
    total = len(order)
    lanes = number_of_lanes(total, batch)
    per_lane = batch // lanes  # clips of a lane in a step
    mine = [divmod(position, per_lane) for position in range(batch * rank // world, batch * (rank + 1) // world)]
    orders: dict[int, tuple[int, list[int]]] = {}  # lane -> its epoch, and its order in it
    for step in range(start_step, steps):
        for lane, offset in mine:
            length = total * (lane + 1) // lanes - total * lane // lanes
            epoch, position = divmod(step * per_lane + offset, length)
            if lane not in orders or orders[lane][0] != epoch:
                orders[lane] = epoch, order.lane(epoch, lane, lanes)
            yield PlannedClip(epoch, order.row(orders[lane][1][position]))


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
