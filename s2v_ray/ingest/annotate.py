"""Outputs of a teacher for the clips of a corpus, stored beside the shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.ingest.corpus import read_ids
from s2v_ray.models.teachers import FaceNetwork, load

ROLES = ("identity", "emotion")
"""Roles of the teachers whose outputs are stored."""
IDENTITY_STRIDE, EMOTION_STRIDE = 5, 2
"""Distance between the frames that the teacher of each role is run on."""
OUTPUTS = "outputs.json"
"""File in a teacher's folder that marks its outputs as complete; it is written last."""


@dataclass(frozen=True)
class AnnotationJob:
    """The outputs of one teacher for one corpus.

    Attributes:
        network_uri: folder of the teacher in the corpus.
        role: "identity" or "emotion".
        digest: of the network.
        shards: URIs of the shards, and where the outputs of each are stored.
    """

    network_uri: str
    role: str
    digest: str
    shards: list[tuple[str, str]]

    @property
    def complete(self) -> bool:
        """Whether all outputs of this network are stored."""
        marker = storage.join(self.network_uri, OUTPUTS)
        return storage.exists(marker) and storage.read_json(marker) == self._marker()

    def begin(self) -> None:
        """Removes the mark of an earlier network."""
        storage.remove(storage.join(self.network_uri, OUTPUTS))

    def finish(self) -> None:
        """Marks the outputs as complete."""
        storage.write_json(storage.join(self.network_uri, OUTPUTS), self._marker())

    def result(self) -> dict[str, Any]:
        """Returns role, digest of the network and number of shards."""
        return {"role": self.role, **self._marker()}

    def _marker(self) -> dict[str, Any]:
        return {"digest": self.digest, "shards": len(self.shards)}


def make_job(corpus: str, role: str, names: list[str]) -> AnnotationJob:
    """Describes the annotation of the shards ``names`` ("train/part-00000.parquet").

    Raises:
        ArtifactError: the corpus has no teacher of this role, or it is damaged.
    """
    network = storage.join(corpus, "teachers", role)
    pairs = [(storage.join(corpus, name), storage.join(network, name)) for name in names]
    return AnnotationJob(network, role, load(network).digest, pairs)


def annotate_shard(network: FaceNetwork, role: str, shard: str, outputs: str) -> int:
    """Stores the outputs for one shard unless this network's are stored already; returns the number of clips."""
    ids = read_ids(shard)
    if ids is not None and (network.digest, ids) == (shards.made_by(outputs), read_ids(outputs)):
        return len(ids)
    rows = [shards.encode_output(clip_id, clip_output(network, frames, role)) for clip_id, frames in _frames(shard)]
    shards.write_shard(outputs, rows, shards.OUTPUT_SCHEMA, made_by=network.digest)
    return len(rows)


def _frames(shard: str) -> Iterator[tuple[str, np.ndarray]]:
    for row in shards.read_shard(shard, columns=["id", "frames"]):
        yield row["id"], shards.decode_frames(row["frames"])


def clip_output(network: Callable[[np.ndarray], Any], frames: np.ndarray, role: str) -> np.ndarray:
    """Computes a teacher's output for a clip.

    Args:
        network: uint8 ``[N, S, S, 3]`` -> ``[N, D]``.
        frames: uint8 ``[T, S, S, 3]``.
        role: of the teacher.

    Returns:
        identity: float32 ``[D]``, the normalised mean over every 5th frame. Otherwise: float32 ``[T, D]``, computed
            for every
        2nd frame and interpolated.
    """
    if role == "identity":
        mean = np.asarray(network(frames[::IDENTITY_STRIDE])).mean(axis=0)
        code: np.ndarray = (mean / np.linalg.norm(mean)).astype(np.float32)
        return code
    at = np.unique(np.r_[np.arange(0, len(frames), EMOTION_STRIDE), len(frames) - 1])
    values = np.asarray(network(frames[at]))
    columns = [np.interp(np.arange(len(frames)), at, column) for column in values.T]
    return np.stack(columns, axis=1).astype(np.float32)
