"""Face detection, and the aligned crop that is the input of every network.

Landmarks are five points (left eye, right eye, nose, left and right mouth corner; left has the smaller x), x and y
in pixels, with pixel centres at integer coordinates. Crops are aligned by the similarity transform that maps the
landmarks to ``TEMPLATE``: those of each frame, or their medians over the clip.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from s2v_ray import storage
from s2v_ray.media.timing import FPS

TEMPLATE = np.array([(0.36, 0.42), (0.64, 0.42), (0.50, 0.58), (0.384, 0.743), (0.616, 0.743)])
"""The five landmarks in unit coordinates of the crop.

This is the ArcFace template (Deng et al. 2019), scaled to an eye distance of 0.28 so that the crop includes chin
and hair.
"""

_DEPTH = np.array([0.0, 0.0, 0.75, 0.28, 0.28])
"""Distance of the five landmarks from the eyes towards the camera, in eye distances, of an average adult face."""
_BATCH = 16  # frames warped at once


@dataclass(frozen=True)
class Detection:
    """A face found in an image.

    Attributes:
        box: x0, y0, x1, y1 in pixels.
        landmarks: float ``[5, 2]``, pixels.
        score: confidence in [0, 1]; 1 for a detector without scores.
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float

    @property
    def area(self) -> float:
        """Area of the box, pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


class Detector(Protocol):
    """Finds faces in one image."""

    def detect(self, frame: np.ndarray) -> list[Detection]:
        """Returns the faces in a uint8 ``[H, W, 3]`` RGB image, largest first."""
        ...


def make_detector(name_or_uri: str) -> Detector:
    """Creates a detector: "haar" (built in, no download), or YuNet from the URI of its weights (ONNX).

    Raises:
        ValueError: the weights are missing, or are not weights of YuNet.
    """
    return HaarDetector() if name_or_uri == "haar" else YuNetDetector(name_or_uri)


class HaarDetector:
    """OpenCV's cascades (Viola and Jones 2001): the face, then the eyes in it. ``TEMPLATE`` gives nose and mouth.

    The boxes vary less over time than the eyes. So a pair of eyes gives position and rotation, and the box gives
    the distance of the eyes. If no plausible pair is found, the mean position of eyes in such boxes is used. Less
    exact than YuNet, but needs no weights.
    """

    EYES = np.array([(0.335, 0.378), (0.665, 0.378)])
    """Mean position of the eyes in unit coordinates of the face box, measured on four GRID speakers."""
    MAX_EYE_ERROR = 0.08
    """Distance from ``EYES``, in sides of the box, above which a detected eye is ignored."""

    def __init__(self) -> None:
        folder = Path(cv2.__file__).parent / "data"
        self._face = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_default.xml"))
        self._eye = cv2.CascadeClassifier(str(folder / "haarcascade_eye.xml"))

    def detect(self, frame: np.ndarray) -> list[Detection]:
        """Returns the faces in a uint8 ``[H, W, 3]`` RGB image, largest first."""
        shrink = max(1.0, max(frame.shape[:2]) / 480)
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        grey = (
            cv2.resize(grey, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA) if shrink > 1 else grey
        )
        boxes, _, scores = self._face.detectMultiScale3(grey, 1.1, 6, minSize=(32, 32), outputRejectLevels=True)
        faces = []
        for (x, y, side, _), score in zip(boxes, np.ravel(scores), strict=True):
            eyes = (x, y) + side * self._eyes(cv2.equalizeHist(grey[y : y + side, x : x + side]))
            points = _transform(similarity(TEMPLATE[None, :2], eyes[None]), TEMPLATE[None])[0]
            box = (x * shrink, y * shrink, (x + side) * shrink, (y + side) * shrink)
            faces.append(Detection(box, points * shrink, float(1 / (1 + np.exp(-score)))))
        return sorted(faces, key=lambda f: -f.area)

    def _eyes(self, face: np.ndarray) -> np.ndarray:
        """Returns ``[2, 2]`` in unit coordinates of the face box; ``EYES`` unless both eyes are found."""
        side = len(face)
        found = self._eye.detectMultiScale(face[: int(0.6 * side)], 1.1, 3, minSize=(max(side // 8, 8),) * 2)
        centres = np.array([(x + w / 2, y + h / 2) for x, y, w, h in found]).reshape(-1, 2) / side
        eyes = []
        for expected in self.EYES:
            distance = np.linalg.norm(centres - expected, axis=1)
            if not len(distance) or distance.min() > self.MAX_EYE_ERROR:
                return self.EYES
            eyes.append(centres[distance.argmin()])
        left, right = np.array(eyes)
        half = (right - left) / np.linalg.norm(right - left) * (self.EYES[1, 0] - self.EYES[0, 0]) / 2
        return np.array([(left + right) / 2 - half, (left + right) / 2 + half])


class YuNetDetector:
    """YuNet (Wu, Peng and Yu 2023) in OpenCV: box, five landmarks and score.

    Args:
        uri: ONNX weights with a fixed input shape.
        threshold: minimum score.

    Raises:
        ValueError: the weights are missing, or are not weights of YuNet.
    """

    SIDE = 384
    """Side of its square input, pixels; faces as small as a tenth of the frame are found."""

    def __init__(self, uri: str, threshold: float = 0.7) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._net = cv2.FaceDetectorYN.create(
                    storage.download(uri, folder), "", (self.SIDE, self.SIDE), threshold
                )
            except (OSError, cv2.error) as e:
                reason = str(e).splitlines()[0]
                raise ValueError(
                    f"{uri} cannot be used as YuNet weights with a fixed input shape (ingest.detector): {reason}"
                ) from e

    def detect(self, frame: np.ndarray) -> list[Detection]:
        """Returns the faces in a uint8 ``[H, W, 3]`` RGB image, largest first."""
        scale = self.SIDE / max(frame.shape[:2])
        small = cv2.resize(
            frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        )[: self.SIDE, : self.SIDE]
        canvas = np.zeros((self.SIDE, self.SIDE, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
        _, rows = self._net.detect(canvas)
        faces = []
        for row in () if rows is None else rows:  # box x, y, w, h; five points, the image's left first; score
            x, y, w, h = row[:4] / scale
            faces.append(
                Detection((x, y, x + w, y + h), row[4:14].reshape(5, 2).astype(np.float64) / scale, float(row[14]))
            )
        return sorted(faces, key=lambda f: -f.area)


def yaw(landmarks: np.ndarray) -> np.ndarray:
    """Estimates the angle by which an upright face, as in a crop, is turned about its vertical axis.

    The landmarks are fitted by an average face under weak perspective, in the least-squares sense (the first step of
    POS, DeMenthon and Davis 1995).

    Args:
        landmarks: float ``[T, 5, 2]``, pixels; the nose must be a landmark of its own, which ``HaarDetector`` has not.

    Returns:
        float64 ``[T]``, degrees in [-90, 90]; positive if the nose points to the right of the picture.
    """
    eye_distance = TEMPLATE[1, 0] - TEMPLATE[0, 0]
    model = np.concatenate([TEMPLATE / eye_distance, _DEPTH[:, None]], axis=1)
    points = landmarks.astype(np.float64) - landmarks.mean(1, keepdims=True)
    fitted = np.linalg.pinv(model - model.mean(0)) @ points  # [T, 3, 2]: two rows of a rotation, times the scale
    scale = np.sqrt(np.square(fitted).sum(1).mean(1))
    angle: np.ndarray = np.degrees(np.arcsin(np.clip(fitted[:, 2, 0] / np.maximum(scale, 1e-12), -1.0, 1.0)))
    return angle


def smooth_landmarks(landmarks: np.ndarray, seconds: float) -> np.ndarray:
    """Smooths ``[T, 5, 2]`` over time with a Gaussian of standard deviation ``seconds``; 0 returns the input."""
    if seconds <= 0:
        return landmarks
    smoothed: np.ndarray = gaussian_filter1d(landmarks.astype(np.float64), seconds * FPS, axis=0, mode="nearest")
    return smoothed


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Computes least-squares similarity transforms (Umeyama 1991; in two dimensions a complex division).

    Args:
        source: float ``[T, P, 2]``.
        target: float ``[T or 1, P, 2]``.

    Returns:
        float64 ``[T, 2, 3]``: ``target ~ M[:, :2] @ source + M[:, 2]``.
    """
    z, w = source[..., 0] + 1j * source[..., 1], target[..., 0] + 1j * target[..., 1]
    mean_z, mean_w = z.mean(-1, keepdims=True), w.mean(-1, keepdims=True)
    spread = (np.abs(z - mean_z) ** 2).sum(-1)
    a = ((z - mean_z).conj() * (w - mean_w)).sum(-1) / np.maximum(spread, 1e-12)
    b = mean_w[..., 0] - a * mean_z[..., 0]
    return np.stack([np.stack([a.real, -a.imag, b.real], -1), np.stack([a.imag, a.real, b.imag], -1)], -2)


def frame_transforms(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Computes the transform of each frame from ``[T, 5, 2]``: float64 ``[T, 2, 3]``, to ``TEMPLATE`` * ``size``."""
    return similarity(landmarks, TEMPLATE[None] * size)


def clip_transform(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Computes one transform for all frames, from the median over time of ``[T, 5, 2]``: float64 ``[1, 2, 3]``."""
    return frame_transforms(np.median(landmarks, axis=0, keepdims=True), size)


def largest_drift(landmarks: np.ndarray, matrices: np.ndarray, size: int) -> float:
    """Computes how far the face moves from its place: the largest root mean square distance of a frame's landmarks.

    Args:
        landmarks: float ``[T, 5, 2]``, pixels of the frames.
        matrices: float ``[T or 1, 2, 3]``, to the crops.
        size: side of the crops.

    Returns:
        the distance from the medians of the landmarks in the crops, as a share of the crop's side.
    """
    placed = _transform(matrices, landmarks) / size
    return float(np.sqrt(np.square(placed - np.median(placed, axis=0)).sum(-1).mean(-1)).max())


def align(
    frames: np.ndarray, landmarks: np.ndarray, size: int, matrices: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Crops faces: each frame is warped by a similarity transform.

    Args:
        frames: uint8 ``[T, H, W, 3]`` RGB.
        landmarks: float ``[T, 5, 2]``, pixels of ``frames``.
        size: side of the crop.
        matrices: float ``[T, 2, 3]``; None: the transforms that map each frame's landmarks to ``TEMPLATE``.

    Returns:
        crops, uint8 ``[T, size, size, 3]``, with repeated edges outside the frame; and the landmarks in the crops,
        float32 ``[T, 5, 2]``.
    """
    if matrices is None:
        matrices = frame_transforms(landmarks, size)
    crops = [_warp(frames[i : i + _BATCH], matrices[i : i + _BATCH], size) for i in range(0, len(frames), _BATCH)]
    return np.concatenate(crops), _transform(matrices, landmarks).astype(np.float32)


def crop_face(image: np.ndarray, size: int, detector: Detector) -> np.ndarray:
    """Crops the one face in a uint8 ``[H, W, 3]`` RGB image to uint8 ``[size, size, 3]``.

    Raises:
        ValueError: the image shows no face or several.
    """
    faces = detector.detect(image)
    if len(faces) != 1:
        raise ValueError(f"shows {len(faces) or 'no'} faces where one is needed")
    crops, _ = align(image[None], faces[0].landmarks[None], size)
    crop: np.ndarray = crops[0]
    return crop


def _warp(frames: np.ndarray, matrices: np.ndarray, size: int) -> np.ndarray:
    """Warps at up to 8 times the size and averages, to avoid aliasing of large faces; reads only the visible part."""
    scale = float(np.median(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0])))
    fine = int(np.clip(np.ceil(1 / scale - 0.25), 1, 8))
    x0, y0, x1, y1 = _region(matrices, size, frames.shape[1], frames.shape[2])
    shifted = matrices.copy()
    shifted[:, :, 2] += shifted[:, :, :2] @ np.array([x0, y0])
    shifted *= fine
    shifted[:, :, 2] += (fine - 1) / 2  # pixel centres have integer coordinates in both grids
    crops = np.empty((len(frames), size, size, 3), np.uint8)
    for crop, frame, matrix in zip(crops, frames[:, y0:y1, x0:x1], shifted, strict=True):
        warped = cv2.warpAffine(
            np.ascontiguousarray(frame),
            matrix,
            (size * fine, size * fine),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        cv2.resize(warped, (size, size), dst=crop, interpolation=cv2.INTER_AREA)  # by an integer factor: the mean
    return crops


def _region(matrices: np.ndarray, size: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Returns x0, y0, x1, y1 of the part of the frames that the crops show, at least 2 x 2 pixels."""
    corners = np.array([(-1, -1), (size, -1), (size, size), (-1, size)], np.float64)
    inverse = np.linalg.inv(matrices[:, :, :2])
    points = np.einsum("tij,tpj->tpi", inverse, corners[None] - matrices[:, None, :, 2])
    (x0, y0), (x1, y1) = np.floor(points.min((0, 1))), np.ceil(points.max((0, 1)))
    x0, y0 = int(np.clip(x0, 0, width - 2)), int(np.clip(y0, 0, height - 2))
    return x0, y0, int(np.clip(x1 + 1, x0 + 2, width)), int(np.clip(y1 + 1, y0 + 2, height))


def _transform(matrices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Transforms points ``[T, P, 2]`` by matrices ``[T or 1, 2, 3]``."""
    moved: np.ndarray = np.einsum("tij,tpj->tpi", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    return moved
