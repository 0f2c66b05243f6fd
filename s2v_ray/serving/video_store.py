"""The files of videos. Everything about a video is at a URI, so that any replica can answer for it and continue it.

VIDEOS/<id>/request.json   the request; never changes
VIDEOS/<id>/speech.s16     its decoded speech, 16-bit little-endian at 16 kHz
VIDEOS/<id>/still.rgb      its still, if it has one, uint8 [S, S, 3]
VIDEOS/<id>/take.rgb       the picture of its take, if it has one, uint8 [S, S, 3]
VIDEOS/<id>/state.json     status, progress, the replica that holds the video, and when it last wrote
VIDEOS/<id>/video.mp4      exists when the video is completed
VIDEOS/index/<id>.open     exists if the video is still to be generated
VIDEOS/index/<id>.deleted  exists if the video is deleted, but its files are not removed yet
VIDEOS/index/<hour>/<id>   exists until the files are removed; the hour of its request, since 1970

By the index, one request finds what is to be done, however many videos are completed.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from s2v_ray import storage
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.service import VideoRequest

ID_PATTERN = r"^video_[0-9a-f]{32}$"
INDEX = "index"
"""Folder of the index."""
TIME_DIGITS = 12
"""Hexadecimal digits of an id that are milliseconds since 1970. The other ones are random."""
HOUR_SECONDS = 3600
URL_SECONDS = 3600
"""Validity of a presigned URL."""
SPEECH_SCALE = 32768

VideoStatus = Literal["queued", "in_progress", "completed", "failed"]


@dataclass(frozen=True)
class VideoError:
    """Why a video failed.

    Attributes:
        code: code of ``errors.CODES``.
        message: message for people.
    """

    code: str
    message: str


@dataclass
class VideoState:
    """State of a video, as stored in ``state.json``. Times are seconds since 1970.

    Attributes:
        id: id of the video.
        status: status of the video.
        progress: share of the frames that are generated, in percent, 0 to 100.
        model: name of the bundle.
        prompt: text of the request, which has no effect on the video.
        frames: number of frames.
        size: side of the video, in pixels.
        created_at: time of the request.
        updated_at: time at which this state was written.
        completed_at: time at which the video was completed, or None.
        expires_at: time after which the video is removed.
        error: error of a failed video.
        owner: id of the replica that holds the video.
    """

    id: str
    status: VideoStatus
    progress: int
    model: str
    prompt: str
    frames: int
    size: int
    created_at: float
    updated_at: float
    completed_at: float | None
    expires_at: float
    error: VideoError | None
    owner: str

    @property
    def open(self) -> bool:
        """Whether the video is still to be generated."""
        return self.status in ("queued", "in_progress")


def make_id(created_at: float) -> str:
    """Makes an id. Ids sort in the order of their times, and cannot be guessed."""
    return f"video_{round(1000 * created_at):0{TIME_DIGITS}x}{secrets.token_hex(16 - TIME_DIGITS // 2)}"


def hour_of(video: str) -> int:
    """Hour of the request of a video since 1970, from its id."""
    milliseconds = int(video.removeprefix("video_")[:TIME_DIGITS], 16)
    return milliseconds // (1000 * HOUR_SECONDS)


@dataclass
class VideoIndex:
    """Ids of videos with which something is to be done, and the hours of all others.

    Attributes:
        open: videos that are still to be generated.
        deleted: videos whose files are to be removed.
        hours: hours in which videos were requested whose files are not removed, ascending.
    """

    open: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    hours: list[int] = field(default_factory=list)


class VideoStore:
    """Reads and writes the files of videos. All methods block.

    Args:
        uri: folder of all videos.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def read_index(self) -> VideoIndex:
        """Reads the index. One request, if there is any video."""
        found = VideoIndex()
        marks = {"open": found.open, "deleted": found.deleted}
        for name in storage.list_names(self._at(INDEX)):
            video, _, mark = name.partition(".")
            if name.isdecimal():
                found.hours.append(int(name))
            elif re.fullmatch(ID_PATTERN, video) and mark in marks:
                marks[mark].add(video)
        found.hours.sort()
        return found

    def videos_of(self, hour: int) -> list[str]:
        """Ids of the videos of an hour, from the oldest to the newest. One request for a thousand of them."""
        return [v for v in storage.list_names(self._at(INDEX, str(hour))) if re.fullmatch(ID_PATTERN, v)]

    def remove_hour(self, hour: int) -> None:
        """Removes the folder of an hour without videos, which a local disk keeps."""
        storage.remove(self._at(INDEX, str(hour)))

    def page(self, after: str | None, limit: int, *, newest_first: bool) -> list[str]:
        """Ids of up to ``limit`` videos that are not deleted, in the order of their times, that follow ``after``."""
        index, found = self.read_index(), list[str]()
        hours = index.hours
        if after and re.fullmatch(ID_PATTERN, after):
            of_after = hour_of(after)
            hours = [hour for hour in hours if (hour <= of_after if newest_first else hour >= of_after)]
        for hour in sorted(hours, reverse=newest_first):
            videos = sorted(self.videos_of(hour), reverse=newest_first)
            follow = [v for v in videos if not after or (v < after if newest_first else v > after)]
            found += [v for v in follow if v not in index.deleted]
            if len(found) >= limit:
                break
        return found[:limit]

    def write_state(self, state: VideoState) -> None:
        """Writes the state of a video. The mark of a video that is no longer open is removed after it."""
        storage.write_json(self._at(state.id, "state.json"), asdict(state))
        if not state.open:
            self.unmark_open(state.id)

    def read_state(self, video: str) -> VideoState:
        """Reads the state of a video.

        Raises:
            FileNotFoundError: there is no such video.
            JSONDecodeError: the state is damaged.
        """
        if not re.fullmatch(ID_PATTERN, video):  # text of a client never becomes part of a path
            raise FileNotFoundError(video)
        values = storage.read_json(self._at(video, "state.json"))
        error = VideoError(**values["error"]) if values["error"] else None
        return VideoState(**{field.name: values[field.name] for field in fields(VideoState)} | {"error": error})

    def remove(self, video: str) -> None:
        """Removes all files of a video, last those by which it is found."""
        for uri in (self._at(video), self._mark(video, "open"), self._mark(video, "deleted"), self._in_hour(video)):
            storage.remove(uri)

    def mark_open(self, video: str) -> None:
        """Marks a video, whose state is written, as open: replicas take an open video without a state for removed."""
        storage.write_bytes(self._mark(video, "open"), b"")

    def unmark_open(self, video: str) -> None:
        """Removes the mark of an open video."""
        storage.remove(self._mark(video, "open"))

    def mark_deleted(self, video: str) -> None:
        """Marks a video as deleted. The replica that holds it ends its work and removes it."""
        storage.write_bytes(self._mark(video, "deleted"), b"")

    def is_deleted(self, video: str) -> bool:
        """Whether a video is marked as deleted."""
        return storage.exists(self._mark(video, "deleted"))

    def write_content(self, video: str, path: Path) -> None:
        """Stores the MP4 of a video from a local file."""
        storage.write_bytes(self._at(video, "video.mp4"), path.read_bytes())

    def read_content(self, video: str) -> bytes:
        """Reads the MP4 of a video."""
        return storage.read_bytes(self._at(video, "video.mp4"))

    def content_url(self, video: str) -> str | None:
        """A presigned URL of the MP4 of a video, or None if the store has no such URLs."""
        return storage.signed_url(self._at(video, "video.mp4"), URL_SECONDS)

    def write_request(self, video: str, request: VideoRequest) -> None:
        """Stores the request of a new video. Its speech is rounded to 16 bits."""
        storage.write_bytes(self._in_hour(video), b"")
        generation = request.generation
        samples = (generation.speech * SPEECH_SCALE).round().clip(-SPEECH_SCALE, SPEECH_SCALE - 1).astype("<i2")
        storage.write_bytes(self._at(video, "speech.s16"), samples.tobytes())
        for name, picture in (("still", generation.still), ("take", generation.take)):
            if picture is not None:
                storage.write_bytes(self._at(video, f"{name}.rgb"), picture.tobytes())
        emotion = generation.emotion.tolist() if isinstance(generation.emotion, Tensor) else generation.emotion
        values = {
            "model": request.model,
            "emotion": emotion,
            "seed": generation.seed,
            "size": request.size,
            "identity": None if generation.identity is None else generation.identity.tolist(),
            "still": None if generation.still is None else len(generation.still),
            "take": None if generation.take is None else len(generation.take),
        }
        storage.write_json(self._at(video, "request.json"), values)

    def read_request(self, video: str) -> VideoRequest:
        """Reads the request of a video."""
        values = storage.read_json(self._at(video, "request.json"))
        samples = np.frombuffer(storage.read_bytes(self._at(video, "speech.s16")), "<i2").astype(np.float32)
        samples /= SPEECH_SCALE
        emotion = values["emotion"] if isinstance(values["emotion"], str) else _code(values["emotion"])
        still, take = (self._read_picture(video, name, values[name]) for name in ("still", "take"))
        generation = GenerationRequest(
            samples, _code(values["identity"]), emotion, still=still, take=take, seed=values["seed"]
        )
        return VideoRequest(generation, values["model"], values["size"])

    def _read_picture(self, video: str, name: str, side: int | None) -> np.ndarray | None:
        if side is None:
            return None
        pixels = np.frombuffer(storage.read_bytes(self._at(video, f"{name}.rgb")), np.uint8)
        return pixels.reshape(side, side, 3)

    def _at(self, *name: str) -> str:
        return storage.join(self.uri, *name)

    def _mark(self, video: str, mark: str) -> str:
        return self._at(INDEX, f"{video}.{mark}")

    def _in_hour(self, video: str) -> str:
        return self._at(INDEX, str(hour_of(video)), video)


def _code(values: list[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)
