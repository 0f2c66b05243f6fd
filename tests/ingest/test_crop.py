"""Crops and clips of files that are made for the test; a stub detects the face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.ingest.crop import CroppedClip, Process, content_id, file_of
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face
from tests.helpers.faces import LANDMARKS, StubDetector
from tests.helpers.ingested import RECIPE, ingest_file
from tests.helpers.recipes import tiny_recipe
from tests.helpers.videos import flash_and_beep, make_video


def test_a_clip_is_aligned_and_labelled(tmp_path: Path, detector: StubDetector) -> None:
    frames, sound = flash_and_beep(0.5, np.arange(30) / 25, 1.2, 16_000)
    (clip,) = ingest_file(make_video(tmp_path / "a.mkv", np.arange(30) / 25, frames, sound))
    assert clip.frames.shape == (30, 32, 32, 3)
    assert np.allclose(clip.landmarks, face.TEMPLATE * 32, atol=1e-3)
    labels = (clip.speaker, clip.emotion, clip.sentence, clip.source, clip.mouth_opening)
    assert labels == ("anna", "happy", "hello", "a.mkv", None)


def test_long_files_are_cut_into_pieces_of_equal_length(tmp_path: Path, detector: StubDetector) -> None:
    recipe = tiny_recipe(media={"smoothing": 0.0}, ingest={"min_face": 16, "max_seconds": 1.0})
    frames, sound = flash_and_beep(1.0, np.arange(60) / 25, 2.4, 16_000)
    path = make_video(tmp_path / "a.mkv", np.arange(60) / 25, frames, sound)
    whole, pieces = ingest_file(path)[0], ingest_file(path, recipe)
    assert [len(c.frames) for c in pieces] == [20, 20, 20]
    assert np.array_equal(np.concatenate([c.frames for c in pieces]), whole.frames)
    assert np.array_equal(np.concatenate([c.speech for c in pieces]), whole.speech)
    assert [c.source for c in pieces] == ["a.mkv#0.00s", "a.mkv#0.80s", "a.mkv#1.60s"]
    assert {file_of(c.source) for c in pieces} == {"a.mkv"}


def moving_face(tmp_path: Path, offsets: np.ndarray, align: str = "clip") -> list[CroppedClip]:
    """Clips of a constant picture of noise whose landmarks are moved by ``offsets`` ``[50, 2]``, pixels."""
    times = np.arange(50) / 25
    picture = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    path = make_video(tmp_path / "a.mkv", times, [picture] * 50, np.random.default_rng(0).normal(0, 0.1, (1, 32_000)))
    landmarks = (LANDMARKS + offsets[:, None]).tolist()
    storage.write_json(str(tmp_path / "a.json"), {"landmarks": landmarks})
    recipe = tiny_recipe(media={"align": align}, ingest={"max_seconds": 1.0})
    return Process(recipe).process(SourceClip(str(path), path.name, "anna", ground_truth=str(tmp_path / "a.json")))


def test_errors_of_landmarks_move_no_frame_of_a_clip(tmp_path: Path) -> None:
    jitter = np.random.default_rng(1).normal(0, 1.0, (50, 2))
    clips = moving_face(tmp_path, jitter)
    assert [c.alignment for c in clips] == ["clip", "clip"]
    for part in clips:
        assert np.abs(np.diff(part.clip.frames.astype(int), axis=0)).max() < 16  # what the video's encoder changes
        assert np.allclose(np.median(part.clip.landmarks, 0), face.TEMPLATE * 32, atol=0.3)
        assert part.clip.landmarks.std(0).mean() > 0.3
    for part in moving_face(tmp_path, jitter, "smooth"):
        assert np.abs(np.diff(part.clip.frames.astype(int), axis=0)).max() > 40


def test_a_clip_whose_face_leaves_its_place_has_a_transform_for_each_frame(tmp_path: Path) -> None:
    """The crop is 56 pixels wide, so 12 pixels are 0.21 of its side; the second piece does not move."""
    path = np.zeros((50, 2))
    path[:25, 0] = np.linspace(-12, 12, 25)
    first, second = moving_face(tmp_path, path)
    assert (first.alignment, second.alignment) == ("smooth", "clip")
    assert np.allclose(first.clip.landmarks, face.TEMPLATE * 32, atol=1e-3)
    assert np.abs(np.diff(first.clip.frames.astype(int), axis=0)).max() > 20


def test_file_of_removes_only_the_suffix_of_a_piece() -> None:
    assert file_of("a#1.mp4") == "a#1.mp4"
    assert file_of("a#1.mp4#12.40s") == "a#1.mp4"


def test_ids_depend_on_the_content_only(tmp_path: Path, detector: StubDetector) -> None:
    times = np.arange(30) / 25
    frames, sound = flash_and_beep(0.5, times, 1.2, 16_000)
    first = ingest_file(make_video(tmp_path / "a.mkv", times, frames, sound))[0]
    again = ingest_file(make_video(tmp_path / "b.mkv", times, frames, sound))[0]
    other = ingest_file(make_video(tmp_path / "c.mkv", times, frames, sound * 0.5))[0]
    assert first.id == again.id
    assert again.id != other.id
    three_zero_bytes = np.zeros((1, 1, 1, 3), np.uint8)
    assert content_id(three_zero_bytes, np.zeros(0, np.float32)) == "709e80c88487a2411e1e"


def test_an_unreadable_file_is_rejected_without_its_temporary_path(tmp_path: Path) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"no video " * 100)
    with pytest.raises(Reject) as caught:
        ingest_file(tmp_path / "noise.mp4")
    assert caught.value.reason == Reason.UNREADABLE
    assert "the file cannot be read as sound or video" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


def test_an_error_of_the_object_store_is_no_reject(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(uri: str, folder: str) -> str:
        raise storage.StoreError("cannot read s3://b/a.mp4: no answer")

    monkeypatch.setattr(storage, "download", unavailable)
    with pytest.raises(storage.StoreError, match="no answer"):
        Process(RECIPE).process(SourceClip("s3://b/a.mp4", "a.mp4", "anna"))
