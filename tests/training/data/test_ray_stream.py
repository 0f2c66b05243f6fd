"""The stream of batches: epochs, resumption, errors, and Ray against a thread of this process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray.clip import ClipBatch
from s2v_ray.split_index import read_index
from s2v_ray.storage import ArtifactError
from s2v_ray.training.data import decode
from s2v_ray.training.data import ray_stream as stream_module
from s2v_ray.training.data.decode import Window
from s2v_ray.training.data.plan import EpochOrder
from s2v_ray.training.data.ray_stream import StreamConfig, speech_stream, stream
from tests.helpers.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_corpus(str(tmp_path_factory.mktemp("corpus")))


def batches(corpus: str, start_step: int = 0, **changes: object) -> list[ClipBatch]:
    defaults = {"batch": 8, "frames": 6, "speech_frames": 25, "seed": 1, "steps": 9, "executor": "local"}
    return list(stream(StreamConfig(read_index(corpus, "train"), **(defaults | changes)), start_step))  # type: ignore[arg-type]


def test_epochs_follow_without_a_gap_and_a_resumed_stream_is_the_same(corpus: str) -> None:
    whole = batches(corpus, steps=10)  # 80 clips: two epochs of 40
    ids = [i for b in whole for i in b.ids]
    assert Counter(ids[:40]) == Counter(ids[40:]) == Counter(f"clip{i:04d}" for i in range(40))
    assert ids[:40] != ids[40:]
    resumed = batches(corpus, steps=10, start_step=3)
    assert len(resumed) == 7
    for a, b in zip(whole[3:], resumed, strict=True):
        assert a.ids == b.ids
        assert torch.equal(a.frames, b.frames) and torch.equal(a.references, b.references)
        assert torch.equal(a.speech, b.speech)
    firsts: dict[str, set[int]] = {}
    for b in whole:
        for clip, frames in zip(b.ids, b.frames, strict=True):
            firsts.setdefault(clip, set()).add(int(frames[0, 0, 0, 0]))
    assert np.mean([len(f) for f in firsts.values()]) > 1.5  # another window in the next epoch


def test_a_stream_of_speech_has_the_same_clips_and_no_frames(corpus: str) -> None:
    config = StreamConfig(read_index(corpus, "train"), batch=8, frames=6, speech_frames=25, seed=1, steps=9)
    found = list(speech_stream(replace(config, executor="local"), 2))
    for speech, whole in zip(found, batches(corpus, 2), strict=True):
        assert not isinstance(speech, ClipBatch) and speech.ids == whole.ids
        for name in ("speech", "speech_mask", "identity", "emotion"):
            assert torch.equal(getattr(speech, name), getattr(whole, name)), name


def test_the_next_batch_is_collated_in_another_thread_which_ends_with_the_stream(
    corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    collated: list[str] = []

    def collate(windows: list[Window]) -> ClipBatch:
        collated.append(threading.current_thread().name)
        return decode.collate(windows)

    monkeypatch.setattr(stream_module, "collate", collate)
    config = StreamConfig(read_index(corpus, "train"), batch=2, frames=6, speech_frames=25, seed=1, steps=10)
    found = stream(replace(config, executor="local"))
    next(found)
    until = time.monotonic() + 10
    while len(collated) < 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.1)
    assert collated == ["collate-ahead"] * 3, "two batches are ready at most"
    found.close()
    while any(thread.name in ("collate-ahead", "decode-ahead") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_short_clips_are_left_out_and_none_is_an_error(corpus: str) -> None:
    order = EpochOrder(read_index(corpus, "train"), 25, seed=0)
    assert len(order) == sum(i % 3 != 0 for i in range(40))
    with pytest.raises(ArtifactError, match="no clip of 60 frames or more"):
        batches(corpus, frames=60, speech_frames=60)


def test_damage_and_missing_outputs_are_errors(tmp_path: Path) -> None:
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


@pytest.mark.cluster
def test_ray_gives_the_same_batches_as_a_thread(corpus: str, local_ray: float, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batches(corpus)
    monkeypatch.setattr(stream_module, "FIRST_CLIPS", 12)  # so that a batch has clips of both sides of the seam
    found = batches(corpus, executor="ray", task_cpus=0.5)
    assert [b.ids for b in found] == [b.ids for b in expected]
    for a, b in zip(found, expected, strict=True):
        for name in ("frames", "speech", "index", "consecutive", "speech_mask", "references", "identity", "emotion"):
            assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.cluster
def test_an_error_in_a_ray_task_keeps_its_message(
    tmp_path: Path, local_ray: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "FIRST_CLIPS", 0)
    corpus = make_corpus(str(tmp_path), clips=8)
    (tmp_path / "teachers" / "emotion" / "train" / "part-00000.parquet").unlink()
    with pytest.raises(ArtifactError, match="^the emotion teacher has no outputs"):
        batches(corpus, steps=1, executor="ray", task_cpus=0.5)


def test_shares_of_workers_that_do_not_divide_the_batch_make_up_the_whole_batch(corpus: str) -> None:
    whole = batches(corpus, steps=2)
    shares = [batches(corpus, steps=2, rank=rank, world=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        parts = [worker[step] for worker in shares]
        assert [len(part.ids) for part in parts] == [2, 3, 3]
        assert [clip for part in parts for clip in part.ids] == batch.ids
        assert torch.equal(torch.cat([part.speech for part in parts]), batch.speech)
