"""The whole of ingest on a Ray cluster of its own, on puppets-like files with known landmarks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from s2v_ray import shards, storage
from s2v_ray.cluster.runtime import node_selector, start_ray
from s2v_ray.config import Recipe, parse_recipe
from s2v_ray.ingest import ray_pipeline as pipeline
from s2v_ray.media import face, video
from s2v_ray.models.teachers import ConvFace, save_conv

SPEAKERS, SENTENCES = ("anna", "bob"), ("one", "two", "three", "four", "five")


def recipe(**ingest: object) -> Recipe:
    return parse_recipe(
        {
            "media": {"size": 32},
            "gan": {"generator": {"channels": [8, 8, 8, 8]}},
            "ingest": {"clips_per_shard": 3, **ingest},
        }
    )


def make_source(root: Path) -> str:
    """Ten clips with truth, two that cannot be used, and one twice."""
    rng = np.random.default_rng(0)
    for speaker in SPEAKERS:
        for sentence in SENTENCES:
            frames = [np.full((64, 64, 3), rng.integers(0, 255), np.uint8)] * 25
            video.write_mp4(
                root / speaker / f"{sentence}.mp4", frames, rng.normal(0, 0.1, 16_000).astype(np.float32).clip(-1, 1)
            )
            write_truth(root / speaker / f"{sentence}.json", speaker, sentence)
    video.write_mp4(root / "bob/mute.mp4", frames, None)
    write_truth(root / "bob/mute.json", "bob", "mute")
    (root / "anna/torn.mp4").write_bytes((root / "anna/one.mp4").read_bytes()[:600])
    write_truth(root / "anna/torn.json", "anna", "torn")
    (root / "bob/twin.mp4").write_bytes((root / "bob/one.mp4").read_bytes())
    write_truth(root / "bob/twin.json", "bob", "one")
    storage.write_manifest(str(root), "puppets", 1, digest="abc")
    return str(root)


def write_truth(path: Path, speaker: str, sentence: str) -> None:
    truth = {
        "speaker": speaker,
        "emotion": "happy",
        "sentence": sentence,
        "landmarks": [(face.TEMPLATE * 56 + 4).tolist()] * 25,
        "mouth_opening": [0.5] * 25,
    }
    path.write_text(json.dumps(truth))


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    start_ray()
    yield
    ray.shutdown()


def content(corpus: str) -> dict[str, bytes]:
    files = {u.removeprefix(corpus): storage.read_bytes(u) for u in storage.list_files(corpus)}
    return files


@pytest.mark.cluster
def test_a_corpus_is_complete_counted_and_the_same_every_time(tmp_path: Path, cluster: None) -> None:
    source, corpus, lines = make_source(tmp_path / "src"), str(tmp_path / "corpus"), []
    manifest = pipeline.ingest(source, corpus, recipe(), lines.append)
    assert manifest == shards.read_corpus_manifest(corpus)
    assert {s: c["clips"] for s, c in manifest["splits"].items()} == {"train": 6, "val": 2, "test": 2}
    assert manifest["splits"]["train"] == {"clips": 6, "frames": 150, "shards": 2}
    assert (manifest["speakers"], manifest["emotions"], manifest["size"], manifest["files"]) == (
        ["anna", "bob"],
        ["happy"],
        32,
        13,
    )
    assert manifest["rejects"] == {"duplicate": 1, "no_sound": 1, "unreadable": 1} and manifest["parents"] == {
        "source": "abc"
    }
    rejects = {r["source"]: r for r in shards.read_shard(storage.join(corpus, "rejects.parquet"))}
    assert {n: r["reason"] for n, r in rejects.items()} == {
        "bob/mute.mp4": "no_sound",
        "anna/torn.mp4": "unreadable",
        "bob/twin.mp4": "duplicate",
    }
    assert "bob/one.mp4" in rejects["bob/twin.mp4"]["detail"]
    clips = {split: shards.read_clips(corpus, split) for split in shards.SPLITS}
    assert {c.speaker for c in clips["train"]} == set(SPEAKERS)
    said = [{c.sentence for c in clips[split]} for split in shards.SPLITS]
    assert sum(len(s) for s in said) == len(set().union(*said)) == 5
    assert all(
        np.allclose(c.landmarks, face.TEMPLATE * 32, atol=1e-3) and c.mouth_opening is not None for c in clips["train"]
    )
    assert not [u for u in storage.list_files(corpus) if pipeline.WORK in u]
    assert lines[-1].startswith("ingest: 10 clips (train 6, val 2, test 2), 3 rejected")

    before = content(corpus)
    pipeline.ingest(source, corpus, recipe(), lines.append)
    assert content(corpus) == before

    with pytest.raises(
        storage.ArtifactError,
        match=r"3 of 13 files were rejected \(duplicate 1, no_sound 1, unreadable 1\).*max_reject_share=0.1",
    ):
        pipeline.ingest(source, corpus, recipe(max_reject_share=0.1), lines.append)
    with pytest.raises(
        storage.ArtifactError, match=r"made with other settings \(ingest.clips_per_shard 3 there, 4 here\)"
    ):
        pipeline.ingest(source, corpus, recipe(clips_per_shard=4), lines.append)
    assert content(corpus) == before  # a failure leaves the earlier corpus as it was


@pytest.mark.cluster
def test_what_was_cut_off_goes_on_and_what_is_new_is_added(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, whole, corpus = make_source(tmp_path / "src"), str(tmp_path / "whole"), str(tmp_path / "corpus")
    pipeline.ingest(source, whole, recipe(), print)
    for moment in (
        "_plan_shards",
        "_write_shards",
        "_check_rejects",
        "_manifest",
    ):  # before each of these, everything is lost but what is stored
        with monkeypatch.context() as broken:
            broken.setattr(pipeline, moment, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                pipeline.ingest(source, corpus, recipe(), print)
        assert not storage.exists(storage.join(corpus, storage.MANIFEST))
        staged = next(
            u for u in storage.list_files(storage.join(corpus, pipeline.WORK)) if u.endswith("000000000.parquet")
        )
        os.utime(staged, (0, 0))
    storage.write_bytes(storage.join(corpus, "train/part-00000.parquet.123.part"), b"half")
    storage.write_bytes(storage.join(corpus, "train/part-00007.parquet"), b"of an older plan")
    assert os.path.getmtime(staged) == 0  # it was never made again
    pipeline.ingest(source, corpus, recipe(), print)
    assert content(corpus) == content(whole)

    rng, before = np.random.default_rng(5), {s: [c.id for c in shards.read_clips(corpus, s)] for s in shards.SPLITS}
    frames = [np.full((64, 64, 3), rng.integers(0, 255), np.uint8)] * 25
    video.write_mp4(tmp_path / "src/cleo/six.mp4", frames, rng.normal(0, 0.1, 16_000).astype(np.float32).clip(-1, 1))
    write_truth(tmp_path / "src/cleo/six.json", "cleo", "six")
    manifest, lines = shards.read_corpus_manifest(corpus), list[str]()
    added = pipeline.ingest(source, corpus, recipe(), lines.append)
    assert (
        "1 of them new" in lines[0]
        and added["files"] == manifest["files"] + 1
        and added["rejects"] == manifest["rejects"]
    )
    after = {s: [c.id for c in shards.read_clips(corpus, s)] for s in shards.SPLITS}
    assert all(after[s][: len(before[s])] == before[s] for s in shards.SPLITS)
    assert (
        sum(map(len, after.values())) == sum(map(len, before.values())) + 1
        and "cleo" in added["speakers"]
        and added["digest"] != manifest["digest"]
    )


@pytest.mark.cluster
def test_annotate_stores_what_the_teacher_sees_once(tmp_path: Path, cluster: None) -> None:
    corpus, lines = str(tmp_path / "corpus"), []
    pipeline.ingest(make_source(tmp_path / "src"), corpus, recipe(), lines.append)
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
    assert pipeline.annotate(corpus, "identity", lines.append) == {
        "role": "identity",
        "digest": identity.digest,
        "shards": 4,
    }
    pipeline.annotate(corpus, "emotion", lines.append)
    for shard in shards.shard_uris(corpus, "train"):
        clips = [shards.decode_clip(r) for r in shards.read_shard(shard)]
        for role, network, shape in (("identity", identity, (6,)), ("emotion", emotion, (25, 2))):
            rows = shards.read_shard(shards.outputs_uri(corpus, role, shard))
            assert [r["id"] for r in rows] == [c.id for c in clips]
            for row, clip in zip(rows, clips, strict=True):
                values = shards.decode_output(row)
                assert values.shape == shape
                assert np.allclose(values, pipeline.see(network, clip.frames, role), atol=1e-5)
    lines.clear()
    pipeline.annotate(corpus, "emotion", lines.append)
    assert lines == ["annotate: emotion: already there"]
    kept = shards.outputs_uri(corpus, "emotion", shards.shard_uris(corpus, "train")[0])
    os.utime(kept, (0, 0))
    storage.remove(shards.outputs_uri(corpus, "emotion", shards.shard_uris(corpus, "train")[1]))
    storage.remove(storage.join(corpus, "teachers/emotion", pipeline.OUTPUTS))
    pipeline.annotate(corpus, "emotion", lines.append)  # only what is missing
    assert (
        os.path.getmtime(kept) == 0
        and len(shards.read_shard(shards.outputs_uri(corpus, "emotion", shards.shard_uris(corpus, "train")[1]))) == 3
    )


def test_see_interpolates_logits_and_averages_identities() -> None:
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)

    def brightness(seen: np.ndarray) -> np.ndarray:
        return np.stack([seen[:, 0, 0, 0].astype(np.float32), -seen[:, 0, 0, 0].astype(np.float32)], axis=1)

    assert np.allclose(pipeline.see(brightness, frames, "emotion")[:, 0], np.arange(6))
    angles = np.array([0.0, 0.0, 0.0, 0.0, 0.0, np.pi / 2])
    code = pipeline.see(
        lambda seen: np.stack([np.cos(angles[seen[:, 0, 0, 0]]), np.sin(angles[seen[:, 0, 0, 0]])], axis=1),
        frames,
        "identity",
    )
    assert np.allclose(code, [np.sqrt(0.5), np.sqrt(0.5)])  # frames 0 and 5


def test_bad_sources_targets_and_detectors_stop_before_work(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="there is no source at"):
        pipeline.ingest(str(tmp_path / "missing"), str(tmp_path / "corpus"), recipe())
    (tmp_path / "empty").mkdir()
    with pytest.raises(storage.ArtifactError, match="is empty"):
        pipeline.ingest(str(tmp_path / "empty"), str(tmp_path / "corpus"), recipe())
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="YuNet"):
        pipeline.ingest(str(tmp_path / "src"), str(tmp_path / "corpus"), recipe(detector=str(tmp_path / "none.onnx")))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(storage.ArtifactError, match="cannot write to"):
        pipeline.ingest(str(tmp_path / "src"), str(tmp_path / "file/corpus"), recipe())
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"Alive": True, "Labels": {"ray.io/node-id": "a"}}], None),
        (
            [{"Alive": True, "Labels": {"s2v-role": "driver"}}],
            {"s2v-role": "ingest"},
        ),  # the node for it may have yet to come
        ([{"Alive": False, "Labels": {"s2v-role": "driver"}}, {"Alive": True, "Labels": {}}], None),
    ],
)
def test_work_asks_for_the_nodes_of_its_role_where_nodes_have_roles(
    nodes: list[dict[str, object]], expected: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.ray, "nodes", lambda: nodes)
    assert node_selector("ingest") == expected
