"""Outputs of teachers, computed in this process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray import shards, storage
from s2v_ray.ingest.annotate import AnnotationJob, annotate_shard, clip_output, make_job
from s2v_ray.models.teachers import ConvFace, FaceNetwork, save_conv
from tests.helpers.tiny_corpus import make_corpus

NAMES = ["train/part-00000.parquet", "train/part-00001.parquet"]
CARD = {"channels": 4, "height": 32, "width": 32, "alignment": "box", "mean": (127.5,), "scale": (127.5,)}


def make_teacher(corpus: str, seed: int = 0) -> FaceNetwork:
    torch.manual_seed(seed)
    return save_conv(storage.join(corpus, "teachers/identity"), ConvFace(4, 6), role="identity", dim=6, **CARD)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    return make_corpus(str(tmp_path / "corpus"), clips=6, per_shard=3, val=0)


def annotate(job: AnnotationJob, network: FaceNetwork) -> list[int]:
    return [annotate_shard(network, job.role, shard, outputs) for shard, outputs in job.shards]


def test_emotion_logits_are_interpolated() -> None:
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)

    def brightness(batch: np.ndarray) -> np.ndarray:
        return np.stack([batch[:, 0, 0, 0].astype(np.float32), -batch[:, 0, 0, 0].astype(np.float32)], axis=1)

    output = clip_output(brightness, frames, "emotion")
    assert output.dtype == np.float32
    assert np.allclose(output, np.stack([np.arange(6), -np.arange(6)], axis=1))


def test_identities_are_averaged_and_normalised() -> None:
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    angles = np.array([0.0, 0.0, 0.0, 0.0, 0.0, np.pi / 2])

    def direction(batch: np.ndarray) -> np.ndarray:
        return np.stack([np.cos(angles[batch[:, 0, 0, 0]]), np.sin(angles[batch[:, 0, 0, 0]])], axis=1)

    assert np.allclose(clip_output(direction, frames, "identity"), [np.sqrt(0.5), np.sqrt(0.5)])  # frames 0 and 5


def test_outputs_are_stored_in_the_order_of_the_clips(corpus: str) -> None:
    network = make_teacher(corpus)
    job = make_job(corpus, "identity", NAMES)
    assert annotate(job, network) == [3, 3]
    for shard, outputs in job.shards:
        rows, clips = shards.read_shard(outputs), [shards.decode_clip(r) for r in shards.read_shard(shard)]
        assert [r["id"] for r in rows] == [c.id for c in clips]
        for row, clip in zip(rows, clips, strict=True):
            assert np.allclose(shards.decode_output(row), clip_output(network, clip.frames, "identity"), atol=1e-5)


def test_stored_outputs_are_computed_again_only_for_another_network(corpus: str) -> None:
    network = make_teacher(corpus)
    job = make_job(corpus, "identity", NAMES)
    annotate(job, network)
    outputs = job.shards[0][1]
    os.utime(outputs, (0, 0))
    annotate(job, network)
    assert Path(outputs).stat().st_mtime == 0
    other = make_teacher(corpus, seed=1)
    annotate(make_job(corpus, "identity", NAMES), other)
    assert Path(outputs).stat().st_mtime > 0
    assert shards.made_by(outputs) == other.digest


def test_the_mark_belongs_to_a_network_and_a_number_of_shards(corpus: str) -> None:
    network = make_teacher(corpus)
    job = make_job(corpus, "identity", NAMES)
    assert not job.complete
    job.finish()
    assert job.complete
    assert job.result() == {"role": "identity", "digest": network.digest, "shards": 2}
    assert not make_job(corpus, "identity", NAMES[:1]).complete
    job.begin()
    assert not job.complete


def test_no_such_teacher(corpus: str) -> None:
    with pytest.raises(storage.ArtifactError, match="there is no card"):
        make_job(corpus, "emotion", NAMES)
