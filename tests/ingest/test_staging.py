from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import shards, storage
from s2v_ray.ingest import staging
from s2v_ray.ingest.sources import SourceClip, list_clips
from s2v_ray.ingest.staging import RejectRecord, StagingTask, make_tasks, split_results, stage
from tests.helpers.labelled_videos import make_source
from tests.helpers.recipes import tiny_recipe


@pytest.mark.parametrize(("files", "size"), [(1, 1), (31, 1), (64, 2), (10_000, 8)])
def test_small_sources_have_small_tasks(files: int, size: int) -> None:
    assert staging.files_per_task(files) == size
    tasks = make_tasks([SourceClip(f"/{i}", str(i), "anna") for i in range(files)])
    assert [task.first for task in tasks] == list(range(0, files, size))
    assert [f.name for task in tasks for f in task.files] == [str(i) for i in range(files)]


def test_a_task_survives_the_way_to_a_worker() -> None:
    task = StagingTask(3, (SourceClip("s3://b/a.mp4", "a.mp4", "anna", "happy", "hello", "s3://b/a.json", -2, 0.4),))
    assert StagingTask.from_row(task.to_row()) == task


def test_clips_are_staged_and_rejects_are_recorded(tmp_path: Path) -> None:
    _, files = list_clips(make_source(tmp_path / "src"))
    task = StagingTask(40, tuple(files))
    results = stage(task, tiny_recipe(), str(tmp_path / "work"))
    clips, rejects = split_results(results[::-1])
    assert [c.source for c in clips] == [f.name for f in files if f.name not in ("anna/truncated.mp4", "bob/mute.mp4")]
    assert [(r.source, r.reason) for r in rejects] == [
        ("anna/truncated.mp4", "unreadable"),
        ("bob/mute.mp4", "no_sound"),
    ]
    assert {r.index for r in results} == set(range(40, 40 + len(files)))
    for clip in clips:
        (row,) = shards.read_rows(clip.staged_in, clip.row_group)
        assert (row["id"], row["speaker"], row["sentence"], row["source"], row["num_frames"]) == (
            clip.id,
            clip.speaker,
            clip.sentence,
            clip.source,
            clip.frames,
        )


def test_a_finished_task_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, files = list_clips(make_source(tmp_path / "src"))
    task = StagingTask(0, tuple(files[:3]))
    first = stage(task, tiny_recipe(), str(tmp_path / "work"))
    monkeypatch.setattr(staging, "Process", lambda recipe: pytest.fail("a file was processed again"))
    assert stage(task, tiny_recipe(), str(tmp_path / "work")) == first


def test_pieces_of_a_file_have_row_groups_of_their_own(tmp_path: Path) -> None:
    _, files = list_clips(make_source(tmp_path / "src"))
    recipe = tiny_recipe(ingest={"max_seconds": 0.5})
    clips, _ = split_results(stage(StagingTask(0, tuple(files[:1])), recipe, str(tmp_path / "work")))
    assert len(clips) == 3
    assert [c.row_group for c in clips] == [0, 1, 2]
    assert [shards.read_rows(c.staged_in, c.row_group)[0]["id"] for c in clips] == [c.id for c in clips]


def test_single_pieces_of_a_file_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, files = list_clips(make_source(tmp_path / "src"))
    recipe = tiny_recipe(ingest={"max_seconds": 0.5, "min_speech": 0.5})
    shares = iter([0.9, 0.1, 0.6])
    monkeypatch.setattr("s2v_ray.media.voice.speech_share", lambda speech: next(shares))
    clips, rejects = split_results(stage(StagingTask(0, tuple(files[:1])), recipe, str(tmp_path / "work")))
    assert [c.row_group for c in clips] == [0, 1]
    assert [shards.read_rows(c.staged_in, c.row_group)[0]["id"] for c in clips] == [c.id for c in clips]
    ((source, reason, detail),) = [(r.source, r.reason, r.detail) for r in rejects]
    assert (source.partition("#")[0], reason) == (clips[0].source.partition("#")[0], "little_speech")
    assert source not in {c.source for c in clips}
    assert detail == "10% of it is speech, ingest.min_speech is 0.5"


def test_a_file_out_of_sync_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "Process", lambda recipe: pytest.fail("the file was processed"))
    file = SourceClip(str(tmp_path / "a.mp4"), "a.mp4", "anna", sync_confidence=0.1)
    recipe = tiny_recipe(ingest={"min_sync": 0.3, "offsets": "offsets"})
    (result,) = stage(StagingTask(0, (file,)), recipe, str(tmp_path / "work"))
    assert (result.source, result.reason) == ("a.mp4", "out_of_sync")


def test_results_are_in_the_order_of_the_source() -> None:
    results = [
        staging.StagingResult(1, 1, "b#1.00s", "anna", "3"),
        staging.StagingResult(0, 0, "a", "anna", reason="no_face", detail="none"),
        staging.StagingResult(1, 0, "b#0.00s", "anna", "2"),
    ]
    clips, rejects = split_results(results)
    assert [c.id for c in clips] == ["2", "3"]
    assert rejects == [RejectRecord("a", "no_face", "none")]


def test_an_error_of_the_object_store_ends_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(uri: str, folder: str) -> str:
        raise storage.StoreError("cannot read s3://b/a.mp4: no answer")

    monkeypatch.setattr(storage, "download", unavailable)
    with pytest.raises(storage.StoreError):
        stage(StagingTask(0, (SourceClip("s3://b/a.mp4", "a.mp4", "anna"),)), tiny_recipe(), str(tmp_path))
    assert storage.list_files(str(tmp_path)) == []
