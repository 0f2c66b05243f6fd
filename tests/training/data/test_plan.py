"""The plan as a pure function."""

from __future__ import annotations

from collections import Counter

import pytest

from s2v_ray.training.data.plan import LANE_CLIPS, Row, ShardIndex, lane_order, number_of_lanes, planned_clips

INDEX = [ShardIndex(f"shard{s}", tuple(tuple(range(8)) for _ in range(4))) for s in range(20)] + [
    ShardIndex("last", ((0, 2, 5),))
]
CLIPS = 20 * 32 + 3


@pytest.mark.parametrize("lanes", [1, 2, 3, 32])
def test_all_lanes_together_hold_every_clip_once(lanes: int) -> None:
    parts = [lane_order(INDEX, seed=3, epoch=2, lane=n, lanes=lanes) for n in range(lanes)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    seen = Counter(row for part in parts for row in part)
    assert set(seen.values()) == {1} and len(seen) == CLIPS
    assert lane_order(INDEX, seed=0, epoch=0, lane=0, lanes=lanes) == lane_order(
        INDEX, seed=0, epoch=0, lane=0, lanes=lanes
    )
    assert lane_order(INDEX, seed=0, epoch=0, lane=0, lanes=lanes) != lane_order(
        INDEX, seed=0, epoch=1, lane=0, lanes=lanes
    )
    assert lane_order(INDEX, seed=0, epoch=0, lane=0, lanes=lanes) != lane_order(
        INDEX, seed=1, epoch=0, lane=0, lanes=lanes
    )


def test_lanes_are_long_enough_and_divide_the_batch() -> None:
    assert [number_of_lanes(clips, 12) for clips in (3, 16, 40, 95, 96, 10_000)] == [1, 2, 4, 6, 12, 12]


def taken(batch: int, steps: int, worlds: dict[int, int]) -> list[list[tuple[int, Row]]]:
    """What each step takes, all workers together, when the number of workers changes: first step -> workers."""
    found: list[list[tuple[int, Row]]] = []
    starts = [*sorted(worlds), steps]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        world = worlds[start]
        parts = [
            list(planned_clips(INDEX, seed=3, batch=batch, rank=r, world=world, start_step=start, steps=end))
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
    order = [row for _, row in planned_clips(INDEX, seed=0, batch=32, steps=CLIPS // 32)]
    span: dict[tuple[str, int], list[int]] = {}
    for i, row in enumerate(order):
        span.setdefault((row.uri, row.group), []).append(i)
    open_at_once = max(sum(min(s) <= i <= max(s) for s in span.values()) for i in range(len(order)))
    assert open_at_once <= 32 * (LANE_CLIPS // 8 + 2)
    assert len({(r.uri, r.group) for r in order[:32]}) >= 24
    workers = [
        {(r.uri, r.group) for _, r in planned_clips(INDEX, seed=0, batch=32, rank=w, world=4, steps=CLIPS // 32)}
        for w in range(4)
    ]
    assert sum(map(len, workers)) <= len(span) + 3  # a row group is read by one worker, but those at the seams
