"""Plan, manifest and clean-up of a corpus, without a cluster."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from s2v_ray import shards, storage
from s2v_ray.ingest import corpus as corpora
from s2v_ray.ingest.corpus import ExistingCorpus, Shard, ShardAssembly
from s2v_ray.ingest.sources import SourceClip, list_clips
from s2v_ray.ingest.staging import ClipRecord, RejectRecord, StagingTask, split_results, stage
from tests.helpers.labelled_videos import make_source
from tests.helpers.recipes import tiny_recipe


def record(i: int, source: str = "", sentence: str = "") -> ClipRecord:
    return ClipRecord(f"id{i}", f"speaker{i % 3}", "happy", sentence or f"s{i}", source or f"{i}.mp4", 25, "staged", i)


def ingest_locally(source: str, corpus: str, **ingest: object) -> ExistingCorpus:
    """What ``ray_pipeline.ingest`` does, in this process; returns the corpus read back."""
    recipe = tiny_recipe(ingest=ingest)
    _, files = list_clips(source)
    task = StagingTask(0, tuple(files))
    clips, rejects = split_results(stage(task, recipe, storage.join(corpus, corpora.WORK)))
    clips, rejects = corpora.drop_duplicates([], clips, rejects)
    plan = corpora.plan_shards(ExistingCorpus(), clips, recipe)
    for shard in plan:
        assembly = ShardAssembly(**asdict(ShardAssembly.of(shard, corpus)))
        assert corpora.write_planned_shard(assembly) == len(shard.clips)
    corpora.write_rejects(corpus, rejects)
    manifest = corpora.corpus_manifest(plan, len(files), rejects, recipe)
    storage.write_manifest(corpus, "corpus", shards.CORPUS_SCHEMA, parents={}, **manifest)
    return corpora.read_existing(corpus, recipe)


def test_a_corpus_is_read_back_as_it_was_planned(tmp_path: Path) -> None:
    corpus = str(tmp_path / "corpus")
    existing = ingest_locally(make_source(tmp_path / "src"), corpus, clips_per_shard=3)
    assert existing.files == 13
    assert [r.reason for r in existing.rejects] == ["unreadable", "no_sound", "duplicate"]
    assert [s.name for s in existing.shards][:2] == ["train/part-00000.parquet", "train/part-00001.parquet"]
    for shard in existing.shards:
        stored = shards.read_shard(storage.join(corpus, shard.name), ["id", "num_frames"])
        assert [r["id"] for r in stored] == shard.ids
        assert [r["num_frames"] for r in stored] == [c.frames for c in shard.clips]
    assert {"bob/one.mp4", "bob/mute.mp4", "bob/zcopy.mp4"} <= existing.processed_files()


def test_pieces_count_as_their_file() -> None:
    existing = ExistingCorpus([Shard("train/x", "train", [record(0, "a.mp4#0.00s")])], [], 1)
    assert existing.processed_files() == {"a.mp4#0.00s", "a.mp4"}


def test_no_corpus_yet(tmp_path: Path) -> None:
    assert corpora.read_existing(str(tmp_path), tiny_recipe()) == ExistingCorpus()


def test_a_corpus_from_before_a_key_was_added_is_continued_with_its_default(tmp_path: Path) -> None:
    corpus = str(tmp_path / "corpus")
    ingest_locally(make_source(tmp_path / "src"), corpus)
    manifest = storage.read_json(storage.join(corpus, "manifest.json"))
    assert manifest["settings"].pop("ingest.min_sharpness") == 0.0
    storage.write_json(storage.join(corpus, "manifest.json"), manifest)
    assert corpora.read_existing(corpus, tiny_recipe()).files == manifest["files"]
    with pytest.raises(storage.ArtifactError, match=r"ingest.min_sharpness 0.0 there, 9.0 here"):
        corpora.read_existing(corpus, tiny_recipe(ingest={"min_sharpness": 9.0}))


def test_other_settings_are_an_error_but_not_the_limit_of_rejects(tmp_path: Path) -> None:
    corpus = str(tmp_path / "corpus")
    ingest_locally(make_source(tmp_path / "src"), corpus, clips_per_shard=3)
    message = r"made with other settings \(ingest.clips_per_shard 3 there, 4 here\)"
    with pytest.raises(storage.ArtifactError, match=message):
        corpora.read_existing(corpus, tiny_recipe(ingest={"clips_per_shard": 4}))
    same = tiny_recipe(ingest={"clips_per_shard": 3, "max_reject_share": 0.9, "source": "folder"})
    assert corpora.read_existing(corpus, same).files == 13


def test_duplicates_are_rejected_and_name_the_first_clip() -> None:
    copies = [ClipRecord("id0", "x", "", "", "copy.mp4", 25), ClipRecord("id9", "x", "", "", "new.mp4", 25)]
    again = ClipRecord("id9", "x", "", "", "again.mp4", 25)
    clips, rejects = corpora.drop_duplicates([record(0)], [*copies, again], [RejectRecord("z.mp4", "no_face", "none")])
    assert [c.source for c in clips] == ["new.mp4"]
    assert rejects == [
        RejectRecord("again.mp4", "duplicate", "the same as new.mp4"),
        RejectRecord("copy.mp4", "duplicate", "the same as 0.mp4"),
        RejectRecord("z.mp4", "no_face", "none"),
    ]


def test_too_many_rejects_are_an_error() -> None:
    recipe = tiny_recipe(ingest={"max_reject_share": 0.25})
    rejects = [RejectRecord("a.mp4", "no_face", "none"), RejectRecord("b.mp4", "no_sound", "silent")]
    corpora.check_rejects(8, [record(0)], rejects, recipe)
    with pytest.raises(storage.ArtifactError) as caught:
        corpora.check_rejects(7, [record(0)], rejects, recipe)
    assert str(caught.value) == (
        "2 of 7 files were rejected (no_face 1, no_sound 1), more than ingest.max_reject_share=0.25; "
        "the first: a.mp4: none"
    )
    blurred = [RejectRecord(f"{i}.mp4", "blurred", "") for i in range(5)]
    corpora.check_rejects(8, [record(0)], [*blurred, *rejects], recipe)  # the recipe asked for it
    with pytest.raises(storage.ArtifactError, match=r"2 of 7 files .*\(blurred 5, no_face 1.*first: a.mp4"):
        corpora.check_rejects(7, [record(0)], [*blurred, *rejects], recipe)
    with pytest.raises(storage.ArtifactError, match="none is left"):
        corpora.check_rejects(800, [], rejects, recipe)


def test_new_clips_go_to_new_shards() -> None:
    recipe = tiny_recipe(ingest={"clips_per_shard": 4})
    first = corpora.plan_shards(ExistingCorpus(), [record(i) for i in range(30)], recipe)
    assert sum(len(s.clips) for s in first) == 30
    assert max(len(s.clips) for s in first) == 4
    existing = ExistingCorpus(first, [], 30)
    second = corpora.plan_shards(existing, [record(i) for i in range(30, 40)], recipe)
    assert not {s.name for s in first} & {s.name for s in second}
    assert sorted(i for s in second for i in s.ids) == sorted(f"id{i}" for i in range(30, 40))
    count = {split: sum(s.split == split for s in first) for split in shards.SPLITS}
    for shard in second:
        assert int(shard.name[-13:-8]) >= count[shard.split]


def test_a_shard_with_other_clips_than_planned_is_an_error(tmp_path: Path) -> None:
    corpus = str(tmp_path / "corpus")
    existing = ingest_locally(make_source(tmp_path / "src"), corpus)
    name = existing.shards[0].name
    staged = storage.list_files(storage.join(corpus, corpora.WORK), ".parquet")[0]
    wrong = ShardAssembly(storage.join(corpus, name), ["other"], [(staged, 0)])
    with pytest.raises(storage.ArtifactError, match="not those that were planned: remove .ingest"):
        corpora.write_planned_shard(wrong)


def test_ids_of_a_missing_or_damaged_shard(tmp_path: Path) -> None:
    assert corpora.read_ids(str(tmp_path / "none.parquet")) is None
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    assert corpora.read_ids(str(tmp_path / "bad.parquet")) is None


def test_the_manifest_counts_by_split_and_reason() -> None:
    made = [Shard("train/part-00000.parquet", "train", [record(0), record(1)])]
    made += [Shard("val/part-00000.parquet", "val", [record(2)])]
    rejects = [RejectRecord("a", "no_face", ""), RejectRecord("b", "no_face", "")]
    recipe = tiny_recipe()
    manifest = corpora.corpus_manifest(made, 5, rejects, recipe)
    assert manifest["splits"]["train"] == {"clips": 2, "frames": 50, "shards": 1}
    assert manifest["splits"]["test"] == {"clips": 0, "frames": 0, "shards": 0}
    assert (manifest["speakers"], manifest["emotions"]) == (["speaker0", "speaker1", "speaker2"], ["happy"])
    assert (manifest["files"], manifest["rejects"], manifest["size"]) == (5, {"no_face": 2}, 32)
    assert manifest["digest"] != corpora.corpus_manifest(made[:1], 5, rejects, recipe)["digest"]


def test_the_source_digest_is_its_manifests_or_that_of_the_labels(tmp_path: Path) -> None:
    clips = [SourceClip("/a.mp4", "a.mp4", "anna", "happy", "hello")]
    without = corpora.source_digest(str(tmp_path), clips)
    assert without == corpora.source_digest(
        str(tmp_path), [SourceClip("/moved/a.mp4", "a.mp4", "anna", "happy", "hello")]
    )
    assert without != corpora.source_digest(str(tmp_path), [SourceClip("/a.mp4", "a.mp4", "bob", "happy", "hello")])
    storage.write_manifest(str(tmp_path), "puppets", 1, digest="abc")
    assert corpora.source_digest(str(tmp_path), clips) == "abc"


def test_leftovers_are_removed(tmp_path: Path) -> None:
    corpus = str(tmp_path / "corpus")
    ingest_locally(make_source(tmp_path / "src"), corpus)
    kept = {u for u in storage.list_files(corpus) if corpora.WORK not in u}
    storage.write_bytes(storage.join(corpus, "train/part-00000.parquet.123.part"), b"half")
    storage.write_bytes(storage.join(corpus, "train/part-00007.parquet"), b"of an older plan")
    corpora.remove_leftovers(corpus)
    assert set(storage.list_files(corpus)) == kept
