"""Index of the clips of a split: shards, row groups and numbers of frames.

    CORPUS/index/{train,val,test}.parquet     one row per row group, in the order of the shards

A training run needs the length of every clip before its first step. The index gives it in one file, so the requests at
the start do not grow with the number of shards. It follows from the shards: ``s2v ingest`` writes it, and adds it to a
corpus that has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from s2v_ray import shards, storage

FOLDER = "index"


@dataclass(frozen=True, eq=False)
class SplitIndex:
    """The row groups of a split, and the lengths of their clips. G row groups, N clips.

    Attributes:
        corpus: URI of the corpus.
        split: "train", "val" or "test".
        size: side of the frames in pixels.
        shards: int32 ``[G]``: number of the shard of each row group.
        groups: int32 ``[G]``: number of each row group in its shard.
        starts: int64 ``[G + 1]``: position of the first clip of each row group, and N.
        frames: int32 ``[N]``: number of frames of each clip.
    """

    corpus: str
    split: str
    size: int
    shards: np.ndarray
    groups: np.ndarray
    starts: np.ndarray
    frames: np.ndarray

    def shard_uri(self, number: int) -> str:
        """Returns the URI of a shard."""
        return storage.join(self.corpus, shards.shard_name(self.split, number))


def uri_of(corpus: str, split: str) -> str:
    """Returns the URI of the index of a split."""
    return storage.join(corpus, FOLDER, f"{split}.parquet")


def write_index(corpus: str, split: str, lengths: Sequence[Sequence[int]]) -> None:
    """Writes the index of a split.

    Args:
        corpus: URI of the corpus.
        split: of the corpus.
        lengths: numbers of frames of the clips of each shard, in order.
    """
    rows = [
        {"shard": number, "row_group": at // shards.ROW_GROUP, "num_frames": list(of_shard[at : at + shards.ROW_GROUP])}
        for number, of_shard in enumerate(lengths)
        for at in range(0, len(of_shard), shards.ROW_GROUP)
    ]
    shards.write_shard(uri_of(corpus, split), rows, shards.INDEX_SCHEMA, group=max(1, len(rows)))


def read_index(corpus: str, split: str) -> SplitIndex:
    """Reads the index of a split.

    Raises:
        ArtifactError: there is no corpus, or its index is missing, damaged or older than its shards.
    """
    manifest = shards.read_corpus_manifest(corpus)
    expected = manifest["splits"][split]
    try:
        with shards.open_shard(uri_of(corpus, split)) as file:
            table = file.read(use_threads=False).combine_chunks()
    except FileNotFoundError:
        raise storage.ArtifactError(f"{corpus} has no index: run `s2v ingest` on it again, which adds it") from None
    # An ingest that was interrupted may have written the index of more shards than its manifest counts.
    table = table.slice(0, int(np.searchsorted(table["shard"].to_numpy(), expected["shards"])))
    lengths = table["num_frames"].combine_chunks()
    frames = lengths.flatten().to_numpy()
    if len(frames) != expected["clips"]:
        raise storage.ArtifactError(
            f"the index of {corpus} has {len(frames)} clips in {split} instead of {expected['clips']}: run "
            "`s2v ingest` on it again, which renews it"
        )
    starts = np.concatenate([[0], np.cumsum(lengths.value_lengths().to_numpy(), dtype=np.int64)])
    return SplitIndex(
        corpus, split, manifest["size"], table["shard"].to_numpy(), table["row_group"].to_numpy(), starts, frames
    )
