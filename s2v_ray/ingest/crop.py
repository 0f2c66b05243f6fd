"""Third stage of ingest: crop the faces and cut long files into clips. ``Process`` runs all stages on one file."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import av
import cv2
import numpy as np

from s2v_ray import storage
from s2v_ray.clip import Clip
from s2v_ray.config import Recipe
from s2v_ray.ingest.align import AlignedFile, TemporalAlign
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.scan import Scan
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face, video
from s2v_ray.media.timing import FPS, frames_to_samples

MAX_DRIFT = 0.10
"""Largest distance of a face from its place in the crop (``media.face.largest_drift``) for one transform per clip."""
Alignment = Literal["clip", "smooth"]
"""Transforms of a clip: one for all frames, or one for each, from smoothed landmarks."""
_PIECE = re.compile(r"#\d+\.\d\ds$")  # the suffix that ``Crop`` appends to the name of a file that is cut into pieces
_BATCH_FRAMES, _BATCH_BYTES = 16, 64 * 2**20  # full-size frames in memory at once; one frame of 8K has 100 MB


@dataclass(frozen=True)
class CroppedClip:
    """A clip, and how it is aligned."""

    clip: Clip
    alignment: Alignment


@dataclass(frozen=True)
class Crop:
    """Crops the faces, and cuts long files into pieces of about equal length.

    With ``align`` "clip", each piece has one transform. If its face moves by more than ``MAX_DRIFT``, each of its
    frames has its own.

    Frames that were not kept are decoded again. Only the crops and a few full-size frames are in memory.

    Attributes:
        size: side of the crops, pixels.
        max_seconds: longest piece.
        align: preferred alignment.
        smoothing: standard deviation of the smoothing over time of the landmarks that align single frames, seconds.
    """

    size: int
    max_seconds: float
    align: Alignment
    smoothing: float

    def process(self, aligned: AlignedFile) -> list[CroppedClip]:
        """Returns the clips of a file in order of time."""
        total = len(aligned.indices)
        count = -(-total // max(int(self.max_seconds * FPS), 1))
        edges = np.linspace(0, total, count + 1).round().astype(int)
        pieces = [slice(first, last) for first, last in zip(edges, edges[1:], strict=False)]
        transforms = [self._transforms(aligned.landmarks[piece]) for piece in pieces]
        frames, landmarks = self._crop(aligned, np.concatenate([matrices for matrices, _ in transforms]))
        return [
            CroppedClip(_make_clip(aligned, frames, landmarks, piece), alignment)
            for piece, (_, alignment) in zip(pieces, transforms, strict=True)
        ]

    def _transforms(self, landmarks: np.ndarray) -> tuple[np.ndarray, Alignment]:
        """Returns the transform of each frame of a piece, float64 ``[T, 2, 3]``, and the alignment."""
        if self.align == "clip":
            one = face.clip_transform(landmarks, self.size)
            if face.largest_drift(landmarks, one, self.size) <= MAX_DRIFT:
                return one.repeat(len(landmarks), axis=0), "clip"
        return face.frame_transforms(face.smooth_landmarks(landmarks, self.smoothing), self.size), "smooth"

    def _crop(self, aligned: AlignedFile, matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the crops of all frames, uint8 ``[T, S, S, 3]``, and the landmarks in them, float32 ``[T, 5, 2]``."""
        total = len(aligned.indices)
        crops, points, done = [], [], 0
        batch: list[np.ndarray] = []
        for image, repeats in _selected_frames(aligned):
            batch += [image] * repeats
            full = len(batch) >= _BATCH_FRAMES or len(batch) * image.nbytes >= _BATCH_BYTES
            if full or done + len(batch) == total:
                part = slice(done, done + len(batch))
                crop, landmarks = face.align(np.stack(batch), aligned.landmarks[part], self.size, matrices[part])
                crops.append(crop)
                points.append(landmarks)
                done += len(batch)
                batch = []
        return np.concatenate(crops), np.concatenate(points)


def _selected_frames(aligned: AlignedFile) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the frames that ``aligned.indices`` selects, uint8 ``[H, W, 3]``, and how often each is repeated."""
    scanned, remaining = aligned.scanned, len(aligned.indices)
    repeats = Counter(aligned.indices.tolist())
    for i, frame in enumerate(scanned.frames or (frame for _, frame in video.iter_frames(scanned.path))):
        if i in repeats:
            yield frame.rgb(), repeats[i]
            remaining -= repeats[i]
        if remaining == 0:
            return


def _make_clip(aligned: AlignedFile, frames: np.ndarray, landmarks: np.ndarray, piece: slice) -> Clip:
    source = aligned.scanned.source
    speech = aligned.speech[frames_to_samples(piece.start) : frames_to_samples(piece.stop)]
    whole = piece.stop - piece.start == len(frames)
    opening = aligned.mouth_opening
    return Clip(
        id=content_id(frames[piece], speech),
        frames=frames[piece],
        speech=speech,
        speaker=source.speaker,
        emotion=source.emotion,
        sentence=source.sentence,
        source=source.name if whole else f"{source.name}#{piece.start / FPS:.2f}s",
        landmarks=landmarks[piece],
        mouth_opening=None if opening is None else opening[piece],
    )


@dataclass(frozen=True)
class Process:
    """Runs all stages on one file."""

    recipe: Recipe

    def process(self, source: SourceClip) -> list[CroppedClip]:
        """Returns the clips of one file.

        Raises:
            Reject: the file cannot be used. Errors of the decoders are turned into this.
            StoreError: the object store refuses or does not respond.
        """
        config, media, path = self.recipe.ingest, self.recipe.media, source.uri
        smoothing = 0.0 if source.ground_truth else media.smoothing
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = storage.download(source.uri, folder)
                scanned = Scan(config).process(source, path)
                aligned = TemporalAlign(config.min_seconds).process(scanned)
                return Crop(media.size, config.max_seconds, media.align, smoothing).process(aligned)
        except storage.StoreError:
            raise  # a failure of the storage must not reject the file
        except (
            ValueError,
            LookupError,
            ArithmeticError,
            MemoryError,
            RuntimeError,
            OSError,
            av.FFmpegError,
            cv2.error,
        ) as e:
            # The temporary path is removed from the message, so that the same file always gives the same corpus.
            detail = f"{type(e).__name__}: {e}".splitlines()[0].replace(path, "the file")
            raise Reject(Reason.UNREADABLE, detail) from e


def file_of(source: str) -> str:
    """Returns the file that a clip's ``source`` names, without the suffix of a piece ("name#12.00s")."""
    return _PIECE.sub("", source)


def content_id(frames: np.ndarray, speech: np.ndarray) -> str:
    """Returns the SHA-256 (first 20 hex digits) of the pixels and of the speech as it is stored (int16)."""
    return storage.sha256(frames.tobytes() + (speech * 32767.0).round().astype("<i2").tobytes())[:20]
