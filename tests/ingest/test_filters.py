"""Limits of quality: each rejects what is beyond it, and nothing without it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig
from s2v_ray.ingest.filters import QualityFilter, sharpness, turn_of
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face
from tests.helpers.faces import turned


def clip_of(frames: np.ndarray, landmarks: np.ndarray | None = None) -> Clip:
    points = np.tile(face.TEMPLATE * 32, (len(frames), 1, 1)) if landmarks is None else landmarks
    return Clip("c", frames, np.zeros(len(frames) * 640, np.float32), "s", "", "", "", points.astype(np.float32))


def noise(sigma: float) -> np.ndarray:
    """Four frames of noise, blurred by ``sigma`` pixels."""
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) if sigma else picture] * 4)


def reason(config: IngestConfig, clip: Clip) -> Reason | None:
    try:
        QualityFilter(config).check_clip(clip)
    except Reject as e:
        return e.reason
    return None


def test_sharpness_is_the_deviation_of_the_laplacian() -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[0, 4, 4] = 100  # its Laplacian is -400 there and 100 at four neighbours
    assert sharpness(frames) == pytest.approx(np.sqrt((400**2 + 4 * 100**2) / 64) / 2)


def test_blurred_clips_are_rejected() -> None:
    limit = sharpness(noise(1.0))
    assert sharpness(noise(0)) > limit > sharpness(noise(2.0)) > 0
    config = IngestConfig(min_sharpness=limit)
    assert [reason(config, clip_of(noise(sigma))) for sigma in (0, 1.0, 2.0)] == [None, None, Reason.BLURRED]
    assert reason(IngestConfig(), clip_of(noise(9.0))) is None


def test_turned_faces_are_rejected_by_the_median_over_the_clip() -> None:
    config = IngestConfig(max_turn=20.0, detector="yunet.onnx")
    angles = [-30.0, -30.0, 25.0, 0.0]
    clip = clip_of(noise(0), np.stack([turned(angle) for angle in angles]))
    assert turn_of(clip) == pytest.approx(27.5)
    assert reason(config, clip) == Reason.TURNED
    assert reason(config, clip_of(noise(0), np.stack([turned(angle) for angle in (-30.0, 15.0, 10.0, 0.0)]))) is None
    assert reason(IngestConfig(detector="yunet.onnx"), clip) is None


def test_clips_with_little_speech_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2v_ray.media.voice.speech_share", lambda speech: 0.4)
    assert reason(IngestConfig(min_speech=0.5), clip_of(noise(0))) == Reason.LITTLE_SPEECH
    assert reason(IngestConfig(min_speech=0.4), clip_of(noise(0))) is None


@pytest.mark.parametrize(("confidence", "rejected"), [(0.5, False), (0.29, True), (None, True)])
def test_files_out_of_sync_are_rejected_before_they_are_decoded(confidence: float | None, rejected: bool) -> None:
    source = SourceClip("", "a.mp4", "anna", sync_confidence=confidence)
    QualityFilter(IngestConfig()).check_file(source)
    config = QualityFilter(IngestConfig(min_sync=0.3, offsets="offsets"))
    if not rejected:
        config.check_file(source)
        return
    with pytest.raises(Reject) as caught:
        config.check_file(source)
    assert caught.value.reason == Reason.OUT_OF_SYNC
