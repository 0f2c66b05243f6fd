from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2v_ray import shards, storage
from s2v_ray.split_index import read_index, uri_of, write_index

LENGTHS = [[20 + n for n in range(11)], [40, 41]]
"""Frames of the clips of two shards; the first has a row group of 8 clips and one of 3."""


def make_corpus(uri: str, clips: int = 13, shard_count: int = 2) -> str:
    splits = {"train": {"clips": clips, "shards": shard_count}, "val": {"clips": 0, "shards": 0}}
    storage.write_manifest(uri, "corpus", shards.CORPUS_SCHEMA, size=96, splits=splits)
    write_index(uri, "train", LENGTHS)
    write_index(uri, "val", [])
    return uri


def test_row_groups_and_lengths_are_read_as_written(tmp_path: Path) -> None:
    index = read_index(make_corpus(str(tmp_path)), "train")
    assert index.shards.tolist() == [0, 0, 1] and index.groups.tolist() == [0, 1, 0]
    assert index.starts.tolist() == [0, 8, 11, 13]
    assert index.frames.tolist() == [*LENGTHS[0], *LENGTHS[1]]
    assert index.size == 96
    assert index.shard_uri(1) == f"{tmp_path}/train/part-00001.parquet"
    assert index.starts.dtype == np.int64 and index.frames.dtype == np.int32


def test_a_split_may_have_no_clip(tmp_path: Path) -> None:
    index = read_index(make_corpus(str(tmp_path)), "val")
    assert index.starts.tolist() == [0] and not len(index.frames)


def test_shards_that_the_manifest_does_not_count_are_left_out(tmp_path: Path) -> None:
    """An ingest that adds clips was interrupted between the index and the manifest."""
    index = read_index(make_corpus(str(tmp_path), clips=11, shard_count=1), "train")
    assert index.starts.tolist() == [0, 8, 11]
    assert index.frames.tolist() == LENGTHS[0]


def test_an_index_of_fewer_clips_is_an_error(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), clips=20, shard_count=3)
    with pytest.raises(storage.ArtifactError, match="has 13 clips in train instead of 20: run `s2v ingest`"):
        read_index(corpus, "train")


def test_a_missing_and_a_damaged_index_are_errors(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path))
    path = Path(uri_of(corpus, "train"))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(storage.ArtifactError, match="is damaged"):
        read_index(corpus, "train")
    path.unlink()
    with pytest.raises(storage.ArtifactError, match="has no index: run `s2v ingest` on it again"):
        read_index(corpus, "train")


def test_an_index_on_s3_is_read_in_one_request(bucket: str) -> None:
    corpus = make_corpus(f"{bucket}/corpus")
    requests = []
    events = storage.filesystem(corpus)[0].s3.meta.events

    def count(**sent: object) -> None:
        requests.append(sent)

    events.register("before-send.s3", count)
    read_index(corpus, "train")
    events.unregister("before-send.s3", count)
    assert len(requests) == 2, "the manifest, and the index"
