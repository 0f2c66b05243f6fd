"""The plan as a pure function."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from s2v_ray.split_index import SplitIndex
from s2v_ray.training.data.plan import LANE_CLIPS, EpochOrder, Row, number_of_lanes, planned_clips

SHARDS = [[[9] * 8] * 4] * 20 + [[[9, 4, 9, 4, 4, 9]]]
"""Lengths of the clips of each row group of each shard. Clips of 4 frames are too short."""
CLIPS = 20 * 32 + 3


def make_index() -> SplitIndex:
    groups = [(shard, group, lengths) for shard, of in enumerate(SHARDS) for group, lengths in enumerate(of)]
    shards, numbers, lengths = zip(*groups, strict=True)
    starts = np.cumsum([0, *map(len, lengths)])
    return SplitIndex(
        "corpus", "train", 32, np.array(shards), np.array(numbers), starts, np.concatenate([*map(np.array, lengths)])
    )


INDEX = make_index()
ORDER = EpochOrder(INDEX, 5, seed=3)


def plain_lane(seed: int, epoch: int, lane: int, lanes: int) -> list[Row]:
    """The order of a lane in plain Python, one clip after the other."""
    usable = {
        (INDEX.shard_uri(shard), group): [row for row, frames in enumerate(lengths) if frames >= 5]
        for shard, of in enumerate(SHARDS)
        for group, lengths in enumerate(of)
    }
    groups = list(usable)
    np.random.default_rng([seed, epoch]).shuffle(groups)
    sequence = [Row(uri, group, row) for uri, group in groups for row in usable[uri, group]]
    part = sequence[len(sequence) * lane // lanes : len(sequence) * (lane + 1) // lanes]
    rng = np.random.default_rng([seed, epoch, lane])
    window, order = part[:LANE_CLIPS], []
    for clip in part[LANE_CLIPS:]:
        i = int(rng.integers(len(window)))
        order.append(window[i])
        window[i] = clip
    return order + [window[i] for i in rng.permutation(len(window))]


@pytest.mark.parametrize("lanes", [1, 3, 40])
def test_the_order_of_a_lane_is_that_of_the_plain_algorithm(lanes: int) -> None:
    for epoch, lane in ((0, 0), (1, lanes - 1), (5, lanes // 2), (0, lanes // 2)):
        assert [ORDER.row(clip) for clip in ORDER.lane(epoch, lane, lanes)] == plain_lane(3, epoch, lane, lanes)


@pytest.mark.parametrize("lanes", [1, 2, 3, 32])
def test_all_lanes_together_hold_every_clip_once(lanes: int) -> None:
    parts = [ORDER.lane(2, n, lanes) for n in range(lanes)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    seen = Counter(row for part in parts for row in part)
    assert set(seen.values()) == {1} and len(seen) == CLIPS
    assert ORDER.lane(0, 0, lanes) == ORDER.lane(0, 0, lanes) != ORDER.lane(1, 0, lanes)
    assert EpochOrder(INDEX, 5, seed=1).lane(0, 0, lanes) != ORDER.lane(0, 0, lanes)


def test_lanes_are_long_enough_and_divide_the_batch() -> None:
    assert [number_of_lanes(clips, 12) for clips in (3, 16, 40, 95, 96, 10_000)] == [1, 2, 4, 6, 12, 12]


def taken(batch: int, steps: int, worlds: dict[int, int]) -> list[list[tuple[int, Row]]]:
    """What each step takes, all workers together, when the number of workers changes: first step -> workers."""
    found: list[list[tuple[int, Row]]] = []
    starts = [*sorted(worlds), steps]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        world = worlds[start]
        parts = [
            list(planned_clips(ORDER, batch=batch, rank=r, world=world, start_step=start, steps=end))
            for r in range(world)
        ]
        each = batch // world
        found += [[row for part in parts for row in part[n * each : (n + 1) * each]] for n in range(end - start)]
    return found


@pytest.mark.parametrize("batch", [12, 40])
def test_no_clip_is_lost_or_doubled_when_the_workers_become_more_or_fewer(batch: int) -> None:
    steps = 3 * CLIPS // batch + 2
    undisturbed = taken(batch, steps, {0: 1})
    changed = taken(batch, steps, {0: 4, 5: 2, 17: 1, 30: 4})
    assert changed == undisturbed
    counts = Counter(entry for step in changed for entry in step)
    assert set(counts.values()) == {1}
    by_epoch = Counter(epoch for epoch, _ in counts)
    assert by_epoch[0] == by_epoch[1] == CLIPS


def test_few_row_groups_are_open_at_once_and_neighbours_come_from_many() -> None:
    order = [row for _, row in planned_clips(ORDER, batch=32, steps=CLIPS // 32)]
    span: dict[tuple[str, int], list[int]] = {}
    for i, row in enumerate(order):
        span.setdefault((row.uri, row.group), []).append(i)
    open_at_once = max(sum(min(s) <= i <= max(s) for s in span.values()) for i in range(len(order)))
    assert open_at_once <= 32 * (LANE_CLIPS // 8 + 2)
    assert len({(r.uri, r.group) for r in order[:32]}) >= 24
    workers = [
        {(r.uri, r.group) for _, r in planned_clips(ORDER, batch=32, rank=w, world=4, steps=CLIPS // 32)}
        for w in range(4)
    ]
    assert sum(map(len, workers)) <= len(span) + 3  # a row group is read by one worker, but those at the seams
