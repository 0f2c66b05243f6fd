"""The files of jobs. Everything about a job is at a URI, so that any replica can answer for it and continue it.

JOBS/<id>/request.json   the request; never changes
JOBS/<id>/speech.s16     its decoded speech, 16-bit little-endian at 16 kHz
JOBS/<id>/still.rgb      its still, if it has one, uint8 [S, S, 3]
JOBS/<id>/take.rgb       the picture of its take, if it has one, uint8 [S, S, 3]
JOBS/<id>/state.json     state, progress, the replica that holds the job, and when it last wrote
JOBS/<id>/cancel         exists if the job is to be cancelled
JOBS/<id>/video.mp4      exists when the job is done
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from s2v_ray import storage
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.serving.service import VideoRequest

JOB_ID = re.compile(r"[0-9a-f]{32}")
URL_SECONDS = 3600
"""Validity of a presigned URL."""
SPEECH_SCALE = 32768

JobPhase = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class JobError:
    """Why a job failed.

    Attributes:
        code: code of ``errors.CODES``.
        message: message for people.
    """

    code: str
    message: str


@dataclass
class JobState:
    """State of a job, as stored in ``state.json``.

    Attributes:
        id: id of the job.
        state: phase of the job.
        progress: share of the frames that are generated, in [0, 1].
        frames: number of frames of the video.
        created: time at which the job was submitted, seconds since 1970.
        updated: time at which this state was written.
        error: error of a failed job.
        owner: id of the replica that holds the job.
        expires: time after which the job is removed.
    """

    id: str
    state: JobPhase
    progress: float
    frames: int
    created: float
    updated: float
    error: JobError | None
    owner: str
    expires: float

    @property
    def open(self) -> bool:
        """Whether the job waits or runs."""
        return self.state in ("queued", "running")


class JobStore:
    """Reads and writes the files of jobs. All methods block.

    Args:
        uri: folder of all jobs.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def list_jobs(self) -> list[str]:
        """Ids of all jobs that have a state."""
        names = (uri.split("/")[-2] for uri in storage.list_files(self.uri, "/state.json"))
        return [name for name in names if JOB_ID.fullmatch(name)]

    def write_state(self, state: JobState) -> None:
        """Writes the state of a job."""
        storage.write_json(self._at(state.id, "state.json"), asdict(state))

    def read_state(self, job: str) -> JobState:
        """Reads the state of a job.

        Raises:
            FileNotFoundError: there is no such job.
            JSONDecodeError: the state is damaged.
        """
        if not JOB_ID.fullmatch(job):  # text of a client never becomes part of a path
            raise FileNotFoundError(job)
        values = storage.read_json(self._at(job, "state.json"))
        error = JobError(**values["error"]) if values["error"] else None
        return JobState(**{field.name: values[field.name] for field in fields(JobState)} | {"error": error})

    def remove(self, job: str) -> None:
        """Removes all files of a job."""
        storage.remove(self._at(job))

    def request_cancellation(self, job: str) -> None:
        """Asks the replica that holds a job to cancel it."""
        storage.write_bytes(self._at(job, "cancel"), b"")

    def is_cancelled(self, job: str) -> bool:
        """Whether the cancellation of a job was requested."""
        return storage.exists(self._at(job, "cancel"))

    def write_video(self, job: str, path: Path) -> None:
        """Stores the video of a job from a local file."""
        storage.write_bytes(self._at(job, "video.mp4"), path.read_bytes())

    def read_video(self, job: str) -> bytes:
        """Reads the video of a job."""
        return storage.read_bytes(self._at(job, "video.mp4"))

    def video_url(self, job: str) -> str | None:
        """A presigned URL of the video of a job, or None if the store has no such URLs."""
        return storage.signed_url(self._at(job, "video.mp4"), URL_SECONDS)

    def write_request(self, job: str, request: VideoRequest) -> None:
        """Stores the request of a job. Its speech is rounded to 16 bits."""
        generation = request.generation
        samples = (generation.speech * SPEECH_SCALE).round().clip(-SPEECH_SCALE, SPEECH_SCALE - 1).astype("<i2")
        storage.write_bytes(self._at(job, "speech.s16"), samples.tobytes())
        for name, picture in (("still", generation.still), ("take", generation.take)):
            if picture is not None:
                storage.write_bytes(self._at(job, f"{name}.rgb"), picture.tobytes())
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
        storage.write_json(self._at(job, "request.json"), values)

    def read_request(self, job: str) -> VideoRequest:
        """Reads the request of a job."""
        values = storage.read_json(self._at(job, "request.json"))
        samples = np.frombuffer(storage.read_bytes(self._at(job, "speech.s16")), "<i2").astype(np.float32)
        samples /= SPEECH_SCALE
        emotion = values["emotion"] if isinstance(values["emotion"], str) else _code(values["emotion"])
        still, take = (self._read_picture(job, name, values[name]) for name in ("still", "take"))
        generation = GenerationRequest(
            samples, _code(values["identity"]), emotion, still=still, take=take, seed=values["seed"]
        )
        return VideoRequest(generation, values["model"], values["size"])

    def _read_picture(self, job: str, name: str, side: int | None) -> np.ndarray | None:
        if side is None:
            return None
        pixels = np.frombuffer(storage.read_bytes(self._at(job, f"{name}.rgb")), np.uint8)
        return pixels.reshape(side, side, 3)

    def _at(self, job: str, *name: str) -> str:
        return storage.join(self.uri, job, *name)


def _code(values: list[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values)
