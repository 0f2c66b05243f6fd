"""The plan is checked as a pure function; windows are checked against clips whose pixels and speech tell the frame."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray.clip import ClipBatch
from s2v_ray.storage import ArtifactError
from s2v_ray.training.data import ray_stream as stream_module
from s2v_ray.training.data.ray_stream import (
    LANE_CLIPS,
    READ_AHEAD,
    Job,
    Row,
    ShardIndex,
    Window,
    decode_jobs,
    lanes_of,
    plan,
    read_index,
    rows_of,
    stream,
)
from tests.helpers.tiny_corpus import make_corpus

INDEX = [ShardIndex(f"shard{s}", tuple(tuple(range(8)) for _ in range(4))) for s in range(20)] + [
    ShardIndex("last", ((0, 2, 5),))
]
CLIPS = 20 * 32 + 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_corpus(str(tmp_path_factory.mktemp("corpus")))


def batches(corpus: str, **changes: object) -> list[ClipBatch]:
    settings = {"batch": 8, "frames": 6, "speech_frames": 25, "seed": 1, "steps": 9, "executor": "local"} | changes
    return list(stream(corpus, "train", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("lanes", [1, 2, 3, 32])
def test_all_lanes_together_hold_every_clip_once(lanes: int) -> None:
    parts = [plan(INDEX, seed=3, epoch=2, lane=n, lanes=lanes) for n in range(lanes)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    seen = Counter(row for part in parts for row in part)
    assert set(seen.values()) == {1} and len(seen) == CLIPS
    assert plan(INDEX, seed=0, epoch=0, lane=0, lanes=lanes) == plan(INDEX, seed=0, epoch=0, lane=0, lanes=lanes)
    assert plan(INDEX, seed=0, epoch=0, lane=0, lanes=lanes) != plan(INDEX, seed=0, epoch=1, lane=0, lanes=lanes)
    assert plan(INDEX, seed=0, epoch=0, lane=0, lanes=lanes) != plan(INDEX, seed=1, epoch=0, lane=0, lanes=lanes)


def test_lanes_are_long_enough_and_divide_the_batch() -> None:
    assert [lanes_of(clips, 12) for clips in (3, 16, 40, 95, 96, 10_000)] == [1, 2, 4, 6, 12, 12]


def taken(batch: int, steps: int, worlds: dict[int, int]) -> list[list[tuple[int, Row]]]:
    """What each step takes, all workers together, when the number of workers changes: first step -> workers."""
    found: list[list[tuple[int, Row]]] = []
    starts = [*sorted(worlds), steps]
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        world = worlds[start]
        parts = [
            list(rows_of(INDEX, seed=3, batch=batch, rank=r, world=world, start_step=start, steps=end))
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
    order = [row for _, row in rows_of(INDEX, seed=0, batch=32, steps=CLIPS // 32)]
    span: dict[tuple[str, int], list[int]] = {}
    for i, row in enumerate(order):
        span.setdefault((row.uri, row.group), []).append(i)
    open_at_once = max(sum(min(s) <= i <= max(s) for s in span.values()) for i in range(len(order)))
    assert open_at_once <= 32 * (LANE_CLIPS // 8 + 2)
    assert len({(r.uri, r.group) for r in order[:32]}) >= 24
    workers = [
        {(r.uri, r.group) for _, r in rows_of(INDEX, seed=0, batch=32, rank=w, world=4, steps=CLIPS // 32)}
        for w in range(4)
    ]
    assert sum(map(len, workers)) <= len(span) + 3  # a row group is read by one worker, but those at the seams


def test_windows_agree_with_speech_still_and_teachers(corpus: str) -> None:
    for batch in batches(corpus):
        for i, clip in enumerate(batch.ids):
            number, length = int(clip[4:]), (20, 30, 45)[int(clip[4:]) % 3]
            seen = batch.frames[i, :, 0, 0, 0].float() / 3  # JPEG is off by a level or two
            first = int(seen[0].round())
            assert torch.allclose(seen, torch.arange(first, first + 6.0), atol=0.7)
            start = int(batch.start[i])
            said = batch.speech[i].reshape(25, 640)[:, 0] * 1000
            assert torch.allclose(said[start : start + 6], torch.arange(first, first + 6.0), atol=0.05)
            heard = int(batch.speech_mask[i].sum())
            assert heard == min(25, length) and bool(batch.speech_mask[i, :heard].all())
            assert batch.speech[i].reshape(25, 640)[heard:].abs().sum() == 0
            still = round(float(batch.still[i, 0, 0, 0]) / 3)
            assert still < length and not first + 1 < still < first + 4
            assert batch.identity is not None and int(batch.identity[i].argmax()) == number % 6
            assert batch.emotion is not None
            assert batch.emotion[i, :heard, 0].tolist() == [first - start + k for k in range(heard)]
            assert batch.emotion[i, :heard, 1].tolist() == [number] * heard
            assert batch.emotion[i, heard:].abs().sum() == 0
        assert batch.frames.dtype == torch.uint8 and batch.frames.shape == (8, 6, 32, 32, 3)


def test_epochs_follow_without_a_seam_and_a_resumed_stream_is_the_same(corpus: str) -> None:
    whole = batches(corpus, steps=10)  # 80 clips: two epochs of 40
    ids = [i for b in whole for i in b.ids]
    assert Counter(ids[:40]) == Counter(ids[40:]) == Counter(f"clip{i:04d}" for i in range(40))
    assert ids[:40] != ids[40:]
    resumed = batches(corpus, steps=10, start_step=3)
    assert len(resumed) == 7
    for a, b in zip(whole[3:], resumed, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.frames, b.frames) and torch.equal(a.speech, b.speech) and torch.equal(a.still, b.still)
    firsts: dict[str, set[int]] = {}
    for b in whole:
        for clip, frames in zip(b.ids, b.frames, strict=True):
            firsts.setdefault(clip, set()).add(int(frames[0, 0, 0, 0]))
    assert np.mean([len(f) for f in firsts.values()]) > 1.5  # another window in the next epoch


def test_short_clips_are_left_out_and_none_is_an_error(corpus: str) -> None:
    index = read_index(corpus, "train", 25)
    assert sum(len(rows) for shard in index for rows in shard.groups) == sum(i % 3 != 0 for i in range(40))
    with pytest.raises(ArtifactError, match="no clip of 60 frames or more"):
        batches(corpus, frames=60, speech_frames=60)


def test_damage_and_missing_outputs_are_told(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), clips=8)
    outputs = tmp_path / "teachers" / "emotion" / "train" / "part-00000.parquet"
    (tmp_path / "other").mkdir()
    other = make_corpus(str(tmp_path / "other"), clips=16, per_shard=8)
    outputs.write_bytes(Path(other, "teachers", "emotion", "train", "part-00001.parquet").read_bytes())
    with pytest.raises(ArtifactError, match="belong to other clips"):
        batches(corpus, steps=1)
    outputs.unlink()
    with pytest.raises(ArtifactError, match="emotion teacher has no outputs"):
        batches(corpus, steps=1)
    assert len(batches(corpus, steps=1, teachers=False)) == 1
    shard = tmp_path / "train" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(ArtifactError, match="is damaged"):
        batches(corpus, steps=1)


def test_row_groups_are_read_ahead_but_never_all(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    window = Window(6, 25, 1, corpus, True)
    jobs = [
        (0, shard.uri, group, rows)
        for shard in read_index(corpus, "train", 6)
        for group, rows in enumerate(shard.groups)
    ]
    alone = [clip["id"] for job in jobs for clip in next(decode_jobs([job], window))]
    together, read, asked = threading.Barrier(READ_AHEAD), stream_module._read_group, []

    def read_with_others(job: Job, window: Window) -> object:
        asked.append(job)
        if len(asked) <= READ_AHEAD:
            together.wait(30)  # breaks unless so many are read at once
        return read(job, window)

    monkeypatch.setattr(stream_module, "_read_group", read_with_others)
    found = []
    for n, clips in enumerate(decode_jobs(jobs, window), start=1):
        found += [clip["id"] for clip in clips]
        assert len(asked) <= n + READ_AHEAD
    assert len(jobs) > READ_AHEAD and Counter(asked) == Counter(jobs)
    assert found == alone


@pytest.mark.cluster
def test_ray_gives_the_same_batches_as_a_thread(corpus: str, local_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(corpus)
    monkeypatch.setattr(stream_module, "FIRST_CLIPS", 12)  # so that a batch has clips of both sides of the seam
    found = batches(corpus, executor="ray", cpus=0.5)
    assert [b.ids for b in found] == [b.ids for b in expected]
    for a, b in zip(found, expected, strict=True):
        for name in ("frames", "speech", "start", "speech_mask", "still", "identity", "emotion"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.cluster
def test_an_error_in_a_ray_task_keeps_its_sentence(
    tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "FIRST_CLIPS", 0)
    corpus = make_corpus(str(tmp_path), clips=8)
    (tmp_path / "teachers" / "emotion" / "train" / "part-00000.parquet").unlink()
    with pytest.raises(ArtifactError, match="^the emotion teacher has no outputs"):
        batches(corpus, steps=1, executor="ray", cpus=0.5)
