"""Scanning of files that are made for the test; a stub detects the face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2v_ray.ingest import scan
from s2v_ray.ingest.rejects import Reason
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face, video
from tests.helpers.faces import LANDMARKS, StubDetector, detections
from tests.helpers.ingested import RECIPE, ingest_file, onsets, rejection
from tests.helpers.videos import flash_and_beep, make_video


def test_the_face_is_detected_in_every_third_frame(tmp_path: Path, detector: StubDetector) -> None:
    times = np.arange(30) / 25
    frames, sound = flash_and_beep(0.5, times, 1.2, 16_000)
    path = make_video(tmp_path / "a.mkv", times, frames, sound)
    scanned = scan.Scan(RECIPE.ingest).process(SourceClip(str(path), "a.mkv", "anna"), str(path))
    assert detector.calls == 10
    assert np.allclose(scanned.times, times, atol=2e-3)
    assert np.allclose(scanned.landmark_times, times[::3], atol=2e-3)
    assert np.allclose(scanned.landmarks, LANDMARKS)
    assert scanned.mouth_opening is None
    assert scanned.frames is not None and len(scanned.frames) == 30


def test_frames_of_a_large_file_are_not_kept(
    tmp_path: Path, detector: StubDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = np.arange(30) / 25
    frames, sound = flash_and_beep(0.5, times, 1.2, 16_000)
    path = make_video(tmp_path / "a.mkv", times, frames, sound)
    (kept,) = ingest_file(path)
    monkeypatch.setattr(scan, "KEPT_PIXELS", 64 * 96 * 10)
    scanned = scan.Scan(RECIPE.ingest).process(SourceClip(str(path), "a.mkv", "anna"), str(path))
    assert scanned.frames is None
    (again,) = ingest_file(path)
    assert again.id == kept.id


def test_ground_truth_replaces_the_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_detector", lambda name: pytest.fail("a detector was created"))
    frames, sound = flash_and_beep(0.5, np.arange(30) / 25, 1.2, 16_000)
    video.write_mp4(tmp_path / "a.mp4", frames, sound[0].astype(np.float32))
    landmarks = np.tile(LANDMARKS, (30, 1, 1)) + np.linspace(0, 8, 30)[:, None, None]
    truth = tmp_path / "a.json"
    truth.write_text(json.dumps({"landmarks": landmarks.tolist(), "mouth_opening": np.linspace(0, 1, 30).tolist()}))
    (clip,) = ingest_file(tmp_path / "a.mp4", ground_truth=str(truth))
    assert len(clip.frames) == 30 and onsets(clip)[0] == 13
    assert clip.mouth_opening is not None and np.allclose(clip.mouth_opening, np.linspace(0, 1, 30))
    assert np.allclose(clip.landmarks, face.TEMPLATE * 32, atol=1e-3)
    truth.write_text(json.dumps({"landmarks": landmarks[:-1].tolist()}))
    assert rejection(tmp_path / "a.mp4", ground_truth=str(truth)) == Reason.OUT_OF_RANGE


def test_files_without_usable_audio(tmp_path: Path, detector: StubDetector) -> None:
    times = np.arange(50) / 25
    frames, sound = flash_and_beep(0.5, times, 2.0, 16_000)
    assert rejection(make_video(tmp_path / "mute.mkv", times, frames)) == Reason.NO_SOUND
    assert rejection(make_video(tmp_path / "silent.mkv", times, frames, sound * 0)) == Reason.NO_SOUND


def test_files_without_one_usable_face(tmp_path: Path, detector: StubDetector) -> None:
    times = np.arange(50) / 25
    path = make_video(tmp_path / "good.mkv", times, *flash_and_beep(0.5, times, 2.0, 16_000))
    detector.faces = []
    assert rejection(path) == Reason.NO_FACE
    detector.faces = detections((20, 4, 76, 60), (76, 4, 126, 60))
    assert rejection(path) == Reason.SEVERAL_FACES
    detector.faces = detections((20, 4, 76, 60), (30, 10, 60, 55))  # a false detection inside the face
    assert len(ingest_file(path)) == 1
    detector.faces = [face.Detection((0, 0, 9, 9), LANDMARKS / 8, 1.0)]
    assert rejection(path) == Reason.SMALL_FACE
    detector.faces = [face.Detection((0, 0, 9, 9), LANDMARKS + 500, 1.0)]
    assert rejection(path) == Reason.OUT_OF_RANGE


def test_a_gap_in_the_detections_is_a_reason(tmp_path: Path) -> None:
    found = [(i * scan.DETECT_SECONDS, detections((20, 4, 76, 60))) for i in range(50)]
    times, landmarks = scan.track_face(found, 16)
    assert len(times) == 50 and np.allclose(landmarks, LANDMARKS)
    gap = [(t, [] if 10 <= i < 20 else faces) for i, (t, faces) in enumerate(found)]
    with pytest.raises(scan.Reject, match="no face for 1.3 s"):
        scan.track_face(gap, 16)


def test_single_outliers_of_the_landmarks_are_removed() -> None:
    found = [(i * scan.DETECT_SECONDS, detections((20, 4, 76, 60))) for i in range(9)]
    found[4] = (found[4][0], [face.Detection((20, 4, 76, 60), LANDMARKS + 9, 1.0)])
    assert np.allclose(scan.track_face(found, 16)[1], LANDMARKS)


def test_a_truncated_file(tmp_path: Path, detector: StubDetector) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (64, 96, 3), dtype=np.uint8) for _ in range(100)]
    video.write_mp4(tmp_path / "a.mp4", frames, rng.normal(0, 0.1, 64_000).astype(np.float32).clip(-1, 1))
    assert len(ingest_file(tmp_path / "a.mp4")) == 1
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) // 2])
    assert rejection(tmp_path / "b.mp4") == Reason.TRUNCATED
