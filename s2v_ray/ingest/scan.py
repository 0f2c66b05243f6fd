"""From a video file to clips: scan, place in time, crop. And which clip goes to which split. Knows no Ray."""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import av
import cv2
import numpy as np
from scipy.ndimage import median_filter

from s2v_ray import storage
from s2v_ray.clip import Clip
from s2v_ray.config import IngestConfig, Recipe
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.media import face, video
from s2v_ray.media.audio import AudioTrack, read_audio
from s2v_ray.media.timing import FPS, SAMPLE_RATE, frames_to_samples

DETECT_SECONDS = 3 / FPS
"""A face is looked for this often; in between its landmarks are interpolated."""
MIN_FACE_SHARE = 0.7
"""Share of the pictures looked at that must show a face."""
MAX_FACE_GAP = 1.0
"""Seconds without a face that may be interpolated."""
SECOND_FACE_AREA = 0.25
"""A second face counts when its box is at least so large, compared with the largest one's."""
SECOND_FACE_SHARE = 0.3
"""Share of pictures with a second face above which a clip has several."""
SILENCE = 1e-4
"""AudioTrack that never exceeds this is none."""
MAX_PEAK = 4.0
"""AudioTrack is clipped at 1; a file that goes beyond this (12 dB over) does not hold sound as it says."""
_PIECE = re.compile(r"#\d+\.\d\ds$")  # what ``Crop`` appends to the name of a file that is cut into pieces
KEPT_PIXELS = 64_000_000
"""Pixels of a file that are kept from its first decoding (100 MB, mostly); a larger one is decoded twice."""
_BATCH, _BATCH_BYTES = 16, 64 * 2**20  # full-size frames held at once, and their bytes: one of 8K has 100 MB


class Reason(StrEnum):
    """Why a clip was not used; the values stand in the manifest and in rejects.parquet."""

    UNREADABLE = "unreadable"
    NO_SOUND = "no_sound"
    NO_PICTURE = "no_picture"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    SMALL_FACE = "small_face"
    TRUNCATED = "truncated"
    TOO_SHORT = "too_short"
    OUT_OF_RANGE = "out_of_range"
    DUPLICATE = "duplicate"


class Reject(Exception):
    """This clip cannot be used.

    Attributes:
        reason: counted in the manifest.
        detail: what was found, for a person.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Take:
    """A scanned file: its sound, when its F pictures are shown, and what was seen at some of them.

    Attributes:
        times: float64 ``[F]``, seconds on the file's clock, the same that ``sound`` has.
        seen_times: float64 ``[P]``; ``seen``: float ``[P, 5, 2]`` landmarks, pixels.
        opening: float ``[F]``, true mouth opening, or None.
        pictures: all F of them, where they are few enough to be kept; None: the file has to be decoded again.
    """

    source: SourceClip
    path: str
    sound: AudioTrack
    times: np.ndarray
    seen_times: np.ndarray
    seen: np.ndarray
    opening: np.ndarray | None
    pictures: list[video.DecodedFrame] | None = None


@dataclass(frozen=True)
class Placed:
    """A take on the common clock of picture and sound, T frames at 25 fps.

    Attributes:
        indices: int64 ``[T]``: the file's picture that stands at each frame.
        speech: float32 ``[T * 640]``.
        landmarks: float ``[T, 5, 2]``, pixels, smoothed.
        opening: float32 ``[T]`` or None.
    """

    take: Take
    indices: np.ndarray
    speech: np.ndarray
    landmarks: np.ndarray
    opening: np.ndarray | None


@dataclass(frozen=True)
class Scan:
    """Decodes a file once: sound, times of the pictures, landmarks (detected, or the source's own)."""

    config: IngestConfig

    def process(self, source: SourceClip, path: str) -> Take:
        """Raises Reject."""
        sound = read_audio(path)
        if sound is None:
            raise Reject(Reason.NO_SOUND, "there is no sound track, or nothing in it")
        if sound.peak < SILENCE:
            raise Reject(Reason.NO_SOUND, "the sound track is silent")
        if sound.peak > MAX_PEAK:
            raise Reject(Reason.OUT_OF_RANGE, f"sound peaks at {sound.peak:.3g} where 1 is full scale")
        detector = None if source.truth else _detector(self.config.detector)
        times, size, seen, pictures = self._look(path, detector)
        if not times:
            raise Reject(Reason.NO_PICTURE, "there is no picture track, or nothing in it")
        if not sound.complete:
            raise Reject(Reason.TRUNCATED, f"sound breaks off after {sound.end - sound.start:.2f} s")
        promised, there = video.declared_seconds(path), max(times[-1], sound.end) - min(times[0], sound.start)
        if promised is not None and promised - there > max(0.5, 0.1 * promised):
            raise Reject(Reason.TRUNCATED, f"{there:.2f} s of the {promised:.2f} s that the header promises")
        at = np.asarray(times)
        opening = None
        if source.truth:
            seen_at, landmarks, opening = at, *_read_truth(source.truth, len(times))
        else:
            seen_at, landmarks = _follow(seen, self.config.min_face)
        centres = landmarks.mean(1)
        if not np.isfinite(landmarks).all() or (centres < 0).any() or (centres > size[::-1]).any():
            raise Reject(Reason.OUT_OF_RANGE, "landmarks lie outside the picture")
        return Take(source, path, sound, at, seen_at, landmarks, opening, pictures)

    def _look(
        self, path: str, detector: face.Detector | None
    ) -> tuple[list[float], tuple[int, int], list[tuple[float, list[face.Detection]]], list[video.DecodedFrame] | None]:
        """Times of the pictures, their height and width, the faces in some, and the pictures themselves (see ``Take``)."""
        times: list[float] = []
        seen: list[tuple[float, list[face.Detection]]] = []
        pictures: list[video.DecodedFrame] | None = []
        size = (0, 0)
        try:
            for time, shown in video.iter_frames(path):
                if shown.damaged:
                    raise Reject(Reason.TRUNCATED, f"the picture at {time:.2f} s is damaged")
                if not times or (detector is not None and time >= seen[-1][0] + DETECT_SECONDS - 1e-3):
                    picture = shown.rgb()
                    size = (picture.shape[0], picture.shape[1])
                    seen.append((time, detector.detect(picture) if detector is not None else []))
                times.append(time)
                if pictures is not None:
                    pictures.append(shown)
                    if len(pictures) * shown.frame.width * shown.frame.height > KEPT_PIXELS:
                        pictures = None
        except av.FFmpegError as e:
            raise Reject(Reason.TRUNCATED, f"picture breaks off after {len(times)} frames: {e.strerror}") from e
        return times, size, seen, pictures


def _follow(seen: list[tuple[float, list[face.Detection]]], min_face: int) -> tuple[np.ndarray, np.ndarray]:
    """The one face of a clip: times ``[P]`` and landmarks ``[P, 5, 2]``, single outliers removed."""
    found = [(time, faces[0]) for time, faces in seen if faces]
    if len(found) < MIN_FACE_SHARE * len(seen):
        raise Reject(Reason.NO_FACE, f"a face in {len(found)} of {len(seen)} pictures looked at")
    times = np.array([t for t, _ in found])
    gap = np.diff(np.concatenate([[seen[0][0]], times, [seen[-1][0]]])).max()
    if gap > MAX_FACE_GAP + DETECT_SECONDS:
        raise Reject(Reason.NO_FACE, f"no face for {gap:.1f} s")
    several = sum(any(_is_another(other, faces[0]) for other in faces[1:]) for _, faces in seen if faces)
    if several > SECOND_FACE_SHARE * len(seen):
        raise Reject(Reason.SEVERAL_FACES, f"several faces in {several} of {len(seen)} pictures looked at")
    landmarks = median_filter(
        np.stack([f.landmarks for _, f in found]).astype(np.float64), size=(3, 1, 1), mode="nearest"
    )
    side = float(np.median(np.linalg.norm(landmarks[:, 1] - landmarks[:, 0], axis=1))) / (
        face.TEMPLATE[1, 0] - face.TEMPLATE[0, 0]
    )
    if side < min_face:
        raise Reject(
            Reason.SMALL_FACE,
            f"the face's crop is {side:.0f} pixels wide in the picture, ingest.min_face is {min_face}",
        )
    return times, landmarks


def _is_another(other: face.Detection, largest: face.Detection) -> bool:
    """A second person, not a part of the first one's face or a speck."""
    x, y = (other.box[0] + other.box[2]) / 2, (other.box[1] + other.box[3]) / 2
    inside = largest.box[0] < x < largest.box[2] and largest.box[1] < y < largest.box[3]
    return not inside and other.area >= SECOND_FACE_AREA * largest.area


def _read_truth(uri: str, frames: int) -> tuple[np.ndarray, np.ndarray | None]:
    truth = storage.read_json(uri)
    landmarks = np.asarray(truth["landmarks"], np.float64)
    opening = None if truth.get("mouth_opening") is None else np.asarray(truth["mouth_opening"], np.float32)
    if landmarks.shape != (frames, 5, 2) or (opening is not None and opening.shape != (frames,)):
        raise Reject(
            Reason.OUT_OF_RANGE, f"the truth file holds landmarks {list(landmarks.shape)} for {frames} pictures"
        )
    return landmarks, opening


@functools.cache
def _detector(name_or_uri: str) -> face.Detector:
    """One detector a process."""
    cv2.setNumThreads(1)  # Ray gives a task one core
    return face.make_detector(name_or_uri)


@dataclass(frozen=True)
class Place:
    """Puts picture and sound on one clock by their timestamps, less the source's known offset, at 25 fps and 16 kHz, where both are there."""

    min_seconds: float
    smoothing: float

    def process(self, take: Take) -> Placed:
        """Raises Reject."""
        times, sound = take.times, replace(take.sound, start=take.sound.start - take.source.late / FPS)
        first = int(np.searchsorted(times, sound.start - video.MAX_EARLY_SECONDS))
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / FPS
        start = times[min(first, len(times) - 1)]
        seconds = min(times[-1] + step, sound.end) - start
        count = round(seconds * FPS)
        if count < 1 or seconds < self.min_seconds:
            raise Reject(
                Reason.TOO_SHORT,
                f"picture and sound share {max(seconds, 0):.2f} s, ingest.min_seconds is {self.min_seconds}",
            )
        indices = video.frame_indices(times, start, count)
        shown = times[indices]
        flat = take.seen.reshape(len(take.seen), 10)
        landmarks = np.stack([np.interp(shown, take.seen_times, values) for values in flat.T], axis=1).reshape(
            count, 5, 2
        )
        opening = None if take.opening is None else take.opening[indices]
        return Placed(
            take, indices, _cut(sound, start, count), face.smooth_landmarks(landmarks, self.smoothing), opening
        )


def _cut(sound: AudioTrack, start: float, frames: int) -> np.ndarray:
    """The sound under ``frames`` video frames from ``start``; silence where there is none."""
    speech = np.zeros(frames_to_samples(frames), np.float32)
    skip = round((start - sound.start) * SAMPLE_RATE)
    part = sound.samples[max(skip, 0) :][: max(len(speech) - max(-skip, 0), 0)]
    speech[max(-skip, 0) : max(-skip, 0) + len(part)] = part
    return speech


@dataclass(frozen=True)
class Crop:
    """Crops, decoding again what was not kept; long takes are cut into pieces of about equal length. Memory: the crops and a few full frames."""

    size: int
    max_seconds: float

    def process(self, placed: Placed) -> list[Clip]:
        """Clips in order of time."""
        frames, landmarks = self._crop(placed)
        pieces = -(-len(frames) // max(int(self.max_seconds * FPS), 1))
        edges = np.linspace(0, len(frames), pieces + 1).round().astype(int)
        return [self._piece(placed, frames, landmarks, a, b) for a, b in zip(edges, edges[1:], strict=False)]

    def _crop(self, placed: Placed) -> tuple[np.ndarray, np.ndarray]:
        wanted = Counter(placed.indices.tolist())
        crops, points, held = [], [], []
        done = 0
        for i, shown in enumerate(
            placed.take.pictures or (picture for _, picture in video.iter_frames(placed.take.path))
        ):
            if i in wanted:
                held += [shown.rgb()] * wanted[i]
            if held and (
                len(held) >= _BATCH
                or len(held) * held[0].nbytes >= _BATCH_BYTES
                or done + len(held) == len(placed.indices)
            ):
                crop, landmarks = face.align(np.stack(held), placed.landmarks[done : done + len(held)], self.size)
                crops.append(crop)
                points.append(landmarks)
                done += len(held)
                held = []
            if done == len(placed.indices):
                break
        return np.concatenate(crops), np.concatenate(points)

    def _piece(self, placed: Placed, frames: np.ndarray, landmarks: np.ndarray, a: int, b: int) -> Clip:
        source = placed.take.source
        speech = placed.speech[frames_to_samples(a) : frames_to_samples(b)]
        return Clip(
            id=content_id(frames[a:b], speech),
            frames=frames[a:b],
            speech=speech,
            speaker=source.speaker,
            emotion=source.emotion,
            sentence=source.sentence,
            source=source.name if len(frames) == b - a else f"{source.name}#{a / FPS:.2f}s",
            landmarks=landmarks[a:b],
            mouth_opening=None if placed.opening is None else placed.opening[a:b],
        )


@dataclass(frozen=True)
class Process:
    """All stages for one file."""

    recipe: Recipe

    def process(self, source: SourceClip) -> list[Clip]:
        """The clips of one file.

        Raises:
            Reject: the file cannot be used; nothing else is raised for what is wrong with a file.
            StoreError: the object store refuses, or does not answer.
        """
        config, media, path = self.recipe.ingest, self.recipe.media, source.uri
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = storage.download(source.uri, folder)
                take = Scan(config).process(source, path)
                placed = Place(config.min_seconds, 0.0 if source.truth else media.smoothing).process(take)
                return Crop(media.size, config.max_seconds).process(placed)
        except storage.StoreError:
            raise  # says nothing of the file: an hour without S3 must not reject a thousand of them
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
            # where it lay while it was read says nothing, and would make a corpus differ from one of the same files
            raise Reject(Reason.UNREADABLE, f"{type(e).__name__}: {e}".splitlines()[0].replace(path, "the file")) from e


def file_of(source: str) -> str:
    """The file that a clip's ``source`` names: itself, or what a piece of it ("name#12.00s") was cut from."""
    return _PIECE.sub("", source)


def content_id(frames: np.ndarray, speech: np.ndarray) -> str:
    """SHA-256 (first 20 hex digits) of pixels and of the speech as it is stored."""
    return storage.sha256(frames.tobytes() + (speech * 32767.0).round().astype("<i2").tobytes())[:20]


# ---- splits


@dataclass(frozen=True)
class Entry:
    """What a split needs to know of a clip."""

    id: str
    speaker: str
    sentence: str
    file: str


def order_key(seed: int, name: str) -> str:
    """A seeded, platform-independent shuffle: sort by it."""
    return hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()


def assign_splits(
    entries: Iterable[Entry], config: IngestConfig, seed: int, known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Clip id -> "train", "val" or "test". Depends on the set of clips and the seed, and on ``known``: splits that stay as they are.

    within: whole sentences are held out, in seeded order, as long as every speaker keeps half of their clips in train; so a speaker
    with one clip is in train. Pieces of one file with no known sentence stay together. Only where that leaves val or test empty does
    a sentence stand in two splits. disjoint: whole speakers are held out.

    A new clip of a known sentence (disjoint: of a known speaker) goes where that one is.

    Raises:
        ValueError: too few speakers for a disjoint split.
    """
    known = known or {}
    clips = sorted(entries, key=lambda e: order_key(seed, e.id))
    shares = {"test": config.test_share, "val": config.val_share}
    if config.split == "disjoint":
        settled = {c.speaker: known[c.id] for c in clips if c.id in known}
        return _disjoint(clips, shares, seed, settled)
    settled = {_unit(c): known[c.id] for c in clips if c.id in known}
    quotas = {split: max(share * len(clips), 1.0) for split, share in shares.items() if share > 0}
    splits = {c.id: known.get(c.id, settled.get(_unit(c), "train")) for c in clips}
    _hold_out(splits, clips, quotas, lambda e: order_key(seed, _unit(e)), set(map(_unit, clips)) - set(settled))
    for split in quotas:
        if (
            split not in splits.values() and not known
        ):  # too few sentences: part of what is held out, or else clips of any sentence
            held = [c for c in clips if splits[c.id] != "train"]
            if len(held) > 1:
                splits.update(
                    {c.id: split for c in held[: max(round(len(held) * quotas[split] / sum(quotas.values())), 1)]}
                )
            else:
                _hold_out(splits, clips, {split: quotas[split]}, lambda e: order_key(seed, e.id))
    return splits


def _unit(clip: Entry) -> str:
    """What is held out as a whole: a sentence, or a file where none is known."""
    return clip.sentence or f"file {clip.file}"


def _hold_out(
    splits: dict[str, str], clips: list[Entry], quotas: dict[str, float], key: Any, movable: set[str] | None = None
) -> None:
    """Moves units (clips of one key, and of ``movable`` ones only) from train to the split that lacks most, until each has its quota."""
    units: dict[str, list[Entry]] = defaultdict(list)
    for clip in clips:
        if splits[clip.id] == "train" and (movable is None or _unit(clip) in movable):
            units[key(clip)].append(clip)
    total = Counter(c.speaker for c in clips)
    left = Counter(c.speaker for c in clips if splits[c.id] == "train")
    have = Counter(splits.values())
    for _, unit in sorted(units.items()):
        split = max(quotas, key=lambda s: 1 - have[s] / quotas[s])
        if have[split] >= quotas[split]:
            return
        spoken = Counter(c.speaker for c in unit)
        if all(left[s] - n >= max(1, total[s] / 2) for s, n in spoken.items()):
            left -= spoken
            have[split] += len(unit)
            splits.update({c.id: split for c in unit})


def _disjoint(clips: list[Entry], shares: dict[str, float], seed: int, settled: dict[str, str]) -> dict[str, str]:
    speakers = sorted({c.speaker for c in clips}, key=lambda s: order_key(seed, s))
    counts = {split: max(round(share * len(speakers)), 1) if share > 0 else 0 for split, share in shares.items()}
    have = Counter(settled.values())
    if sum(counts.values()) >= len(speakers):
        raise ValueError(
            f"a speaker-disjoint split (ingest.split) needs more than {sum(counts.values())} speakers, the source has {len(speakers)}"
        )
    names = ["test"] * (counts["test"] - have["test"]) + ["val"] * (counts["val"] - have["val"])
    held = settled | dict(zip((s for s in speakers if s not in settled), names, strict=False))
    return {c.id: held.get(c.speaker, "train") for c in clips}
