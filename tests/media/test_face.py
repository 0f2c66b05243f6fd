from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from s2v_ray.media import face, video
from tests.helpers.faces import turned


def test_similarity_recovers_turn_scale_and_shift() -> None:
    points = np.random.default_rng(0).normal(size=(4, 5, 2))
    angle, scale = 0.3, 1.7
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = face.similarity(points, points @ matrix.T + [3.0, -2.0])
    assert np.allclose(found, np.tile(np.column_stack([matrix, [3.0, -2.0]]), (4, 1, 1)))


def test_similarity_is_opencvs_least_squares() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 100, (1, 5, 2))
    ours = face.similarity(points, face.TEMPLATE[None] * 64)[0]
    residual = np.abs(points[0] @ ours[:, :2].T + ours[:, 2] - face.TEMPLATE * 64) ** 2
    theirs = cv2.estimateAffinePartial2D(points[0], face.TEMPLATE * 64, method=cv2.LMEDS)[0]
    other = np.abs(points[0] @ theirs[:, :2].T + theirs[:, 2] - face.TEMPLATE * 64) ** 2
    assert residual.sum() <= other.sum() + 1e-9


@pytest.mark.parametrize("scale", [0.4, 1.0, 3.3])
@pytest.mark.parametrize("angle", [0.0, 0.4])
def test_align_maps_the_landmarks_to_the_template(scale: float, angle: float) -> None:
    """Five discs in an image, rotated and scaled, are at the positions of the template, to half a pixel."""
    size = 64
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = face.TEMPLATE * size @ turn.T + [160, 40]
    picture = np.zeros((320, 420, 3), np.uint8)
    for x, y in landmarks:
        cv2.circle(picture, (round(x * 16), round(y * 16)), round(3 * scale * 16), (255, 255, 255), -1, cv2.LINE_AA, 4)
    crops, points = face.align(picture[None], landmarks[None], size)
    assert crops.shape == (1, size, size, 3) and crops.dtype == np.uint8
    assert np.allclose(points[0], face.TEMPLATE * size, atol=1e-3)
    for x, y in points[0]:
        x0, y0 = round(x) - 6, round(y) - 6
        weight = crops[0, y0 : y0 + 13, x0 : x0 + 13, 0].astype(float)
        ys, xs = np.mgrid[y0 : y0 + 13, x0 : x0 + 13]
        assert abs((xs * weight).sum() / weight.sum() - x) < 0.5
        assert abs((ys * weight).sum() / weight.sum() - y) < 0.5


def test_align_does_not_alias_a_large_face() -> None:
    checks = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    crop, _ = face.align(np.repeat(checks[None, :, :, None], 3, axis=3), face.TEMPLATE[None] * 640, 64)
    assert np.abs(crop[:, 1:-1, 1:-1].astype(int) - 127).max() <= 20


def test_align_of_many_frames_equals_that_of_each() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (20, 96, 96, 3), dtype=np.uint8)
    landmarks = face.TEMPLATE[None] * 64 + 12 + rng.normal(0, 1, (20, 1, 2))
    together = face.align(frames, landmarks, 64)[0]
    apart = np.concatenate([face.align(frames[i : i + 1], landmarks[i : i + 1], 64)[0] for i in range(20)])
    assert np.abs(together.astype(int) - apart).max() <= 1


def test_a_face_at_the_edge_repeats_the_border() -> None:
    crop, _ = face.align(np.full((1, 50, 50, 3), 77, np.uint8), face.TEMPLATE[None] * 64 - 30, 64)
    assert (crop == 77).all()


def test_smoothing_keeps_constant_landmarks_and_reduces_noise() -> None:
    still = np.tile(face.TEMPLATE * 64, (50, 1, 1))
    assert np.allclose(face.smooth_landmarks(still, 0.1), still)
    noisy = still + np.random.default_rng(0).normal(0, 1, still.shape)
    assert np.diff(face.smooth_landmarks(noisy, 0.1), axis=0).std() < 0.35 * np.diff(noisy, axis=0).std()
    assert face.smooth_landmarks(noisy, 0.0) is noisy


def test_the_transform_of_a_clip_ignores_errors_of_single_frames() -> None:
    placed = np.tile(face.TEMPLATE * 80 + [30, 10], (25, 1, 1))
    wrong = placed.copy()
    wrong[3] += 20.0
    wrong[7, 0] -= 15.0
    exact = face.clip_transform(placed, 64)
    assert exact.shape == (1, 2, 3)
    assert np.allclose(exact, face.frame_transforms(placed[:1], 64))
    assert np.allclose(face.clip_transform(wrong, 64), exact)


def test_the_drift_is_the_largest_distance_as_a_share_of_the_crop() -> None:
    landmarks = np.tile(face.TEMPLATE * 80, (25, 1, 1))
    landmarks[20] += [12.0, 16.0]  # 20 pixels, where a crop has 80
    for size in (32, 64):
        one = face.clip_transform(landmarks, size)
        assert face.largest_drift(landmarks, one, size) == pytest.approx(0.25)
    assert face.largest_drift(landmarks, face.frame_transforms(landmarks, 64), 64) == pytest.approx(0.0, abs=1e-9)


def test_no_face_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    assert face.make_detector("haar").detect(noise) == []


def test_wrong_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no network")
    for uri in (str(tmp_path / "x.onnx"), str(tmp_path / "missing.onnx")):
        with pytest.raises(ValueError, match="YuNet"):
            face.make_detector(uri)


@pytest.mark.skipif("S2V_GRID" not in os.environ, reason="S2V_GRID names no folder of GRID clips")
@pytest.mark.parametrize("name", ["haar", "yunet"])
def test_both_detectors_find_the_one_face_of_grid(name: str) -> None:
    if name == "yunet" and "S2V_WEIGHTS" not in os.environ:
        pytest.skip("S2V_WEIGHTS names no folder of weights")
    detector = face.make_detector(
        "haar" if name == "haar" else str(Path(os.environ["S2V_WEIGHTS"]) / "yunet_n_640_640.onnx")
    )
    clip = sorted(Path(os.environ["S2V_GRID"]).rglob("*.mpg"))[0]
    faces = detector.detect(video.read_video(clip).frames[0])
    assert len(faces) == 1
    eyes, nose = faces[0].landmarks[:2], faces[0].landmarks[2]
    assert eyes[0, 0] < nose[0] < eyes[1, 0] and eyes[:, 1].max() < nose[1] < faces[0].landmarks[3:, 1].min()


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_turn_of_a_face_is_found(scale: float) -> None:
    angles = np.array([-60.0, -20.0, 0.0, 5.0, 45.0])
    landmarks = np.stack([turned(angle) for angle in angles]) * scale + [100, -20]
    assert np.allclose(face.yaw(landmarks), angles, atol=1e-6)
