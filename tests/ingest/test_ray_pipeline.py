"""The whole of ingest on a Ray cluster of its own, on videos with ground truth."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray import shards, storage
from s2v_ray.config import Recipe
from s2v_ray.ingest import annotate as annotation
from s2v_ray.ingest import corpus as corpora
from s2v_ray.ingest import ray_pipeline as pipeline
from s2v_ray.logs import progress_of
from s2v_ray.media import face
from s2v_ray.models.teachers import ConvFace, save_conv
from s2v_ray.split_index import read_index
from tests.helpers.labelled_videos import SPEAKERS, content, make_source, write_video
from tests.helpers.recipes import tiny_recipe


def recipe(**ingest: object) -> Recipe:
    return tiny_recipe(ingest={"clips_per_shard": 3, **ingest})


@pytest.fixture(autouse=True)
def _log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="s2v_ray")


@pytest.mark.cluster
def test_a_corpus_is_complete_counted_and_the_same_every_time(
    tmp_path: Path, local_ray: float, caplog: pytest.LogCaptureFixture
) -> None:
    source, corpus = make_source(tmp_path / "src"), str(tmp_path / "corpus")
    manifest = pipeline.ingest(source, corpus, recipe())
    assert manifest == shards.read_corpus_manifest(corpus)
    assert {s: c["clips"] for s, c in manifest["splits"].items()} == {"train": 6, "val": 2, "test": 2}
    assert manifest["splits"]["train"] == {"clips": 6, "frames": 150, "shards": 2}
    assert (manifest["speakers"], manifest["emotions"]) == (["anna", "bob"], ["happy"])
    assert (manifest["size"], manifest["files"]) == (32, 13)
    assert manifest["rejects"] == {"duplicate": 1, "no_sound": 1, "unreadable": 1}
    assert manifest["parents"] == {"source": "abc"}
    assert manifest["alignment"] == {"clip": 10}
    rejects = {r["source"]: r for r in shards.read_shard(storage.join(corpus, "rejects.parquet"))}
    assert {n: r["reason"] for n, r in rejects.items()} == {
        "bob/mute.mp4": "no_sound",
        "anna/truncated.mp4": "unreadable",
        "bob/zcopy.mp4": "duplicate",
    }
    assert "bob/one.mp4" in rejects["bob/zcopy.mp4"]["detail"]
    clips = {split: shards.read_clips(corpus, split) for split in shards.SPLITS}
    assert {c.speaker for c in clips["train"]} == set(SPEAKERS)
    sentences = [{c.sentence for c in clips[split]} for split in shards.SPLITS]
    assert sum(len(s) for s in sentences) == len(set().union(*sentences)) == 5
    for clip in clips["train"]:
        assert np.allclose(clip.landmarks, face.TEMPLATE * 32, atol=1e-3)
        assert clip.mouth_opening is not None
    assert not [u for u in storage.list_files(corpus) if corpora.WORK in u]
    assert caplog.messages[-1].startswith("ingest: 10 clips (train 6, val 2, test 2), 3 rejected")

    before = content(corpus)
    pipeline.ingest(source, corpus, recipe())
    assert content(corpus) == before
    assert sorted(read_index(corpus, "train").frames) == sorted(len(clip.frames) for clip in clips["train"])
    storage.remove(storage.join(corpus, "index"))
    pipeline.ingest(source, corpus, recipe())
    assert content(corpus) == before, "the index is added again"

    message = r"3 of 13 files were rejected \(duplicate 1, no_sound 1, unreadable 1\).*max_reject_share=0.1"
    with pytest.raises(storage.ArtifactError, match=message):
        pipeline.ingest(source, corpus, recipe(max_reject_share=0.1))
    with pytest.raises(storage.ArtifactError, match=r"other settings \(ingest.clips_per_shard 3 there, 4 here\)"):
        pipeline.ingest(source, corpus, recipe(clips_per_shard=4))
    assert content(corpus) == before  # a failure leaves the earlier corpus as it was


@pytest.mark.cluster
def test_an_interrupted_ingest_is_resumed(tmp_path: Path, local_ray: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted before each of the steps of the driver, which then has only what is stored."""
    source, expected, corpus = make_source(tmp_path / "src"), str(tmp_path / "expected"), str(tmp_path / "corpus")
    pipeline.ingest(source, expected, recipe())
    for module, step in (
        (corpora, "plan_shards"),
        (pipeline, "_write_shards"),
        (corpora, "check_rejects"),
        (corpora, "corpus_manifest"),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(module, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                pipeline.ingest(source, corpus, recipe())
        assert not storage.exists(storage.join(corpus, storage.MANIFEST))
        work = storage.list_files(storage.join(corpus, corpora.WORK))
        staged = next(uri for uri in work if uri.endswith("000000000.parquet"))
        os.utime(staged, (0, 0))
    storage.write_bytes(storage.join(corpus, "train/part-00000.parquet.123.part"), b"half")
    storage.write_bytes(storage.join(corpus, "train/part-00007.parquet"), b"of an older plan")
    assert Path(staged).stat().st_mtime == 0  # no task was repeated
    pipeline.ingest(source, corpus, recipe())
    assert content(corpus) == content(expected)


@pytest.mark.cluster
def test_new_files_are_added(tmp_path: Path, local_ray: float, caplog: pytest.LogCaptureFixture) -> None:
    source, corpus = make_source(tmp_path / "src"), str(tmp_path / "corpus")
    manifest = pipeline.ingest(source, corpus, recipe())
    before = {s: [c.id for c in shards.read_clips(corpus, s)] for s in shards.SPLITS}
    write_video(tmp_path / "src", "cleo", "six", np.random.default_rng(5))
    caplog.clear()
    added = pipeline.ingest(source, corpus, recipe())
    assert "1 of them new" in caplog.messages[0]
    assert added["files"] == manifest["files"] + 1
    assert added["rejects"] == manifest["rejects"]
    assert added["alignment"] == {"clip": 11}
    assert added["digest"] != manifest["digest"]
    assert "cleo" in added["speakers"]
    after = {s: [c.id for c in shards.read_clips(corpus, s)] for s in shards.SPLITS}
    assert all(after[s][: len(before[s])] == before[s] for s in shards.SPLITS)
    assert sum(map(len, after.values())) == sum(map(len, before.values())) + 1


@pytest.mark.cluster
def test_outputs_of_teachers_are_stored_once(
    tmp_path: Path, local_ray: float, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = str(tmp_path / "corpus")
    pipeline.ingest(make_source(tmp_path / "src"), corpus, recipe())
    torch.manual_seed(0)
    common = {"channels": 4, "height": 32, "width": 32, "alignment": "box", "mean": (127.5,), "scale": (127.5,)}
    identity = save_conv(storage.join(corpus, "teachers/identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    emotion = save_conv(
        storage.join(corpus, "teachers/emotion"),
        ConvFace(4, 2),
        role="emotion",
        dim=2,
        labels=("happy", "sad"),
        **common,
    )
    expected = {"role": "identity", "digest": identity.digest, "shards": 4}
    assert pipeline.annotate(corpus, "identity") == expected
    progress = progress_of(caplog.records[-1])
    assert progress is not None and progress.finished and progress.figures == {"clips": 10}
    pipeline.annotate(corpus, "emotion")
    for shard in shards.shard_uris(corpus, "train"):
        clips = [shards.decode_clip(r) for r in shards.read_shard(shard)]
        for role, network, shape in (("identity", identity, (6,)), ("emotion", emotion, (25, 2))):
            rows = shards.read_shard(shards.outputs_uri(corpus, role, shard))
            assert [r["id"] for r in rows] == [c.id for c in clips]
            for row, clip in zip(rows, clips, strict=True):
                values = shards.decode_output(row)
                assert values.shape == shape
                assert np.allclose(values, annotation.clip_output(network, clip.frames, role), atol=1e-5)
    caplog.clear()
    pipeline.annotate(corpus, "emotion")
    assert caplog.messages == ["annotate: emotion: already there"]

    first, second = (shards.outputs_uri(corpus, "emotion", uri) for uri in shards.shard_uris(corpus, "train"))
    os.utime(first, (0, 0))
    storage.remove(second)
    storage.remove(storage.join(corpus, "teachers/emotion", annotation.OUTPUTS))
    pipeline.annotate(corpus, "emotion")  # computes only what is missing
    assert Path(first).stat().st_mtime == 0
    assert len(shards.read_shard(second)) == 3


def test_bad_sources_targets_and_detectors_are_errors_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="there is no source at"):
        pipeline.ingest(str(tmp_path / "missing"), str(tmp_path / "corpus"), recipe())
    (tmp_path / "empty").mkdir()
    with pytest.raises(storage.ArtifactError, match="is empty"):
        pipeline.ingest(str(tmp_path / "empty"), str(tmp_path / "corpus"), recipe())
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="there is no source 'vox'"):
        pipeline.ingest(str(tmp_path / "src"), str(tmp_path / "corpus"), recipe(source="vox"))
    with pytest.raises(ValueError, match="YuNet"):
        pipeline.ingest(str(tmp_path / "src"), str(tmp_path / "corpus"), recipe(detector=str(tmp_path / "none.onnx")))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(storage.ArtifactError, match="cannot write to"):
        pipeline.ingest(str(tmp_path / "src"), str(tmp_path / "file/corpus"), recipe())
    assert not (tmp_path / "corpus").exists()
