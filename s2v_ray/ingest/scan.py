"""First stage of ingest: decode a file once, for its audio, the times of its frames and the landmarks of the face."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import av
import cv2
import numpy as np
from scipy.ndimage import median_filter

from s2v_ray import storage
from s2v_ray.config import IngestConfig
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face, video
from s2v_ray.media.audio import AudioTrack, read_audio
from s2v_ray.media.timing import FPS

DETECT_SECONDS = 3 / FPS
"""Seconds between frames in which the face is detected; in between, its landmarks are interpolated."""
MIN_FACE_SHARE = 0.7
"""Minimum share of these frames that must show a face."""
MAX_FACE_GAP = 1.0
"""Longest time without a detected face, seconds, that is interpolated."""
SECOND_FACE_AREA = 0.25
"""Minimum area of a second face's box, as a share of the largest one's, for it to count."""
SECOND_FACE_SHARE = 0.3
"""Share of frames with a second face above which the clip shows several faces."""
SILENCE = 1e-4
"""Peak of the audio below which a file is treated as silent."""
MAX_PEAK = 4.0
"""Peak of the audio (1 is full scale) above which a file is rejected; up to this, 12 dB over, it is clipped."""
KEPT_PIXELS = 64_000_000
"""Most pixels of a file whose frames are kept in memory (about 100 MB); larger files are decoded twice."""


@dataclass(frozen=True)
class ScannedFile:
    """A decoded file: audio, times of its F frames, and the face's landmarks at P times.

    Attributes:
        source: the file and its labels.
        path: local path of the video.
        audio: its audio, on the same clock as ``times``.
        times: float64 ``[F]``, presentation times of the frames, seconds.
        landmark_times: float64 ``[P]``, seconds.
        landmarks: float ``[P, 5, 2]``, pixels.
        mouth_opening: float ``[F]``, the ground truth in [0, 1], or None.
        frames: all F frames if they are at most ``KEPT_PIXELS``; None: the file has to be decoded again.
    """

    source: SourceClip
    path: str
    audio: AudioTrack
    times: np.ndarray
    landmark_times: np.ndarray
    landmarks: np.ndarray
    mouth_opening: np.ndarray | None
    frames: list[video.DecodedFrame] | None = None


@dataclass(frozen=True)
class FrameScan:
    """The frames of a file, and the faces detected in some of them.

    Attributes:
        times: presentation time of each frame, seconds.
        height, width: of the first frame, pixels.
        detections: times of the inspected frames, and the faces found there, largest first.
        frames: see ``ScannedFile``.
    """

    times: list[float]
    height: int
    width: int
    detections: list[tuple[float, list[face.Detection]]]
    frames: list[video.DecodedFrame] | None


@dataclass(frozen=True)
class Scan:
    """Decodes a file once and finds the landmarks of the face, by a detector or in the source's ground truth."""

    config: IngestConfig

    def process(self, source: SourceClip, path: str) -> ScannedFile:
        """Scans the file at the local ``path``.

        Raises:
            Reject: the file cannot be used.
        """
        audio = _read_audio(path)
        detector = None if source.ground_truth else _detector(self.config.detector)
        scan = scan_frames(path, detector)
        if not scan.times:
            raise Reject(Reason.NO_PICTURE, "there is no video track, or it is empty")
        _check_complete(path, audio, scan.times)
        times = np.asarray(scan.times)
        opening = None
        if source.ground_truth:
            landmark_times, landmarks, opening = times, *_read_ground_truth(source.ground_truth, len(times))
        else:
            landmark_times, landmarks = track_face(scan.detections, self.config.min_face)
        centres = landmarks.mean(1)
        if not np.isfinite(landmarks).all() or (centres < 0).any() or (centres > (scan.width, scan.height)).any():
            raise Reject(Reason.OUT_OF_RANGE, "landmarks lie outside the frame")
        return ScannedFile(source, path, audio, times, landmark_times, landmarks, opening, scan.frames)


def _read_audio(path: str) -> AudioTrack:
    audio = read_audio(path)
    if audio is None:
        raise Reject(Reason.NO_SOUND, "there is no audio track, or it is empty")
    if audio.peak < SILENCE:
        raise Reject(Reason.NO_SOUND, "the audio track is silent")
    if audio.peak > MAX_PEAK:
        raise Reject(Reason.OUT_OF_RANGE, f"the audio peaks at {audio.peak:.3g} where 1 is full scale")
    return audio


def _check_complete(path: str, audio: AudioTrack, times: list[float]) -> None:
    """Raises Reject if the audio or the file ends before its header says."""
    if not audio.complete:
        raise Reject(Reason.TRUNCATED, f"decoding of the audio fails after {audio.end - audio.start:.2f} s")
    declared, found = video.declared_seconds(path), max(times[-1], audio.end) - min(times[0], audio.start)
    if declared is not None and declared - found > max(0.5, 0.1 * declared):
        raise Reject(Reason.TRUNCATED, f"{found:.2f} s of the {declared:.2f} s that the header declares")


def scan_frames(path: str, detector: face.Detector | None) -> FrameScan:
    """Decodes all frames, and detects faces every ``DETECT_SECONDS``; without a detector, only the size is read.

    Raises:
        Reject: a frame is damaged or decoding fails.
    """
    times: list[float] = []
    detections: list[tuple[float, list[face.Detection]]] = []
    frames: list[video.DecodedFrame] | None = []
    height = width = 0
    try:
        for time, frame in video.iter_frames(path):
            if frame.damaged:
                raise Reject(Reason.TRUNCATED, f"the frame at {time:.2f} s is damaged")
            if not times or (detector is not None and time >= detections[-1][0] + DETECT_SECONDS - 1e-3):
                image = frame.rgb()
                height, width = image.shape[:2]
                detections.append((time, detector.detect(image) if detector is not None else []))
            times.append(time)
            if frames is not None:
                frames.append(frame)
                if len(frames) * frame.frame.width * frame.frame.height > KEPT_PIXELS:
                    frames = None
    except av.FFmpegError as e:
        raise Reject(Reason.TRUNCATED, f"decoding fails after {len(times)} frames: {e.strerror}") from e
    return FrameScan(times, height, width, detections, frames)


def track_face(detections: list[tuple[float, list[face.Detection]]], min_face: int) -> tuple[np.ndarray, np.ndarray]:
    """Follows the one face of a clip, and removes single outliers with a median filter.

    Returns:
        times ``[P]``, seconds, and landmarks ``[P, 5, 2]``, pixels.

    Raises:
        Reject: no face in too many frames, several faces, or a face smaller than ``min_face`` pixels.
    """
    found = [(time, faces[0]) for time, faces in detections if faces]
    if len(found) < MIN_FACE_SHARE * len(detections):
        raise Reject(Reason.NO_FACE, f"a face in {len(found)} of {len(detections)} inspected frames")
    times = np.array([t for t, _ in found])
    gap = np.diff(np.concatenate([[detections[0][0]], times, [detections[-1][0]]])).max()
    if gap > MAX_FACE_GAP + DETECT_SECONDS:
        raise Reject(Reason.NO_FACE, f"no face for {gap:.1f} s")
    several = sum(any(_is_second_face(other, faces[0]) for other in faces[1:]) for _, faces in detections if faces)
    if several > SECOND_FACE_SHARE * len(detections):
        raise Reject(Reason.SEVERAL_FACES, f"several faces in {several} of {len(detections)} inspected frames")
    landmarks = median_filter(
        np.stack([f.landmarks for _, f in found]).astype(np.float64), size=(3, 1, 1), mode="nearest"
    )
    eye_distance = float(np.median(np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1)))
    side = eye_distance / (face.TEMPLATE[1, 0] - face.TEMPLATE[0, 0])
    if side < min_face:
        raise Reject(
            Reason.SMALL_FACE, f"the crop of the face is {side:.0f} pixels wide, ingest.min_face is {min_face}"
        )
    return times, landmarks


def _is_second_face(other: face.Detection, largest: face.Detection) -> bool:
    """Whether ``other`` is another person's face, not a false detection inside the largest face or a tiny one."""
    x, y = (other.box[0] + other.box[2]) / 2, (other.box[1] + other.box[3]) / 2
    inside = largest.box[0] < x < largest.box[2] and largest.box[1] < y < largest.box[3]
    return not inside and other.area >= SECOND_FACE_AREA * largest.area


def _read_ground_truth(uri: str, frames: int) -> tuple[np.ndarray, np.ndarray | None]:
    truth = storage.read_json(uri)
    landmarks = np.asarray(truth["landmarks"], np.float64)
    opening = None if truth.get("mouth_opening") is None else np.asarray(truth["mouth_opening"], np.float32)
    if landmarks.shape != (frames, 5, 2) or (opening is not None and opening.shape != (frames,)):
        raise Reject(Reason.OUT_OF_RANGE, f"the ground truth has landmarks {list(landmarks.shape)} for {frames} frames")
    return landmarks, opening


@functools.cache
def _detector(name_or_uri: str) -> face.Detector:
    """Returns the process's detector."""
    cv2.setNumThreads(1)  # Ray reserves one core per task
    return face.make_detector(name_or_uri)
