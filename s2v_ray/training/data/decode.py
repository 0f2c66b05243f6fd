"""From row groups of shards to windows of clips: reading, cutting, decoding, collating. Knows no Ray."""

from __future__ import annotations

import functools
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch, SpeechBatch
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.training.data.plan import RowGroupJob

READ_AHEAD = 4
"""Row groups that are read concurrently: an object store answers more slowly than its data is decoded."""
TEACHERS = ("identity", "emotion")
REFERENCES = 2
"""Frames of a clip, apart from the target frames, from which its take is encoded in training."""

Window = dict[str, np.ndarray]
"""A decoded window: the fields of ``ClipBatch`` for one clip, ``speech`` as int16, and ``id``."""


@dataclass(frozen=True)
class WindowSpec:
    """What is cut out of each clip.

    Attributes:
        corpus: URI of the corpus.
        frames: T, target frames.
        speech_frames: L >= T, frames of speech.
        seed: seed of the positions.
        teachers: whether the teachers' outputs are joined.
        window_share: probability that the target frames of a clip are consecutive; otherwise they are spread.
        pictures: whether frames are read; without them a window is a part of the speech.
    """

    corpus: str
    frames: int
    speech_frames: int
    seed: int
    teachers: bool = True
    window_share: float = 1.0
    pictures: bool = True

    def nbytes(self, side: int) -> int:
        """Size of a decoded window of frames with ``side`` pixels."""
        pixels = (self.frames + REFERENCES) * side * side * 3 if self.pictures else 0
        return pixels + frames_to_samples(self.speech_frames) * 2


@dataclass(frozen=True)
class RowGroup:
    """Columns of a row group, and the teachers' outputs for the rows of a job.

    Attributes:
        ids: clip ids of all rows.
        lengths: frames of all rows.
        frames: Arrow array: encoded frames of all rows; None if they are not read.
        speech: Arrow array: 16-bit PCM of all rows.
        outputs: by role of the teacher, for the rows of the job.
    """

    ids: list[str]
    lengths: list[int]
    frames: Any
    speech: Any
    outputs: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class EncodedClip:
    """A whole clip before decoding.

    Attributes:
        id: the clip's id.
        length: number of frames.
        frame: index -> JPEG of the frame; None if frames are not read.
        speech: little-endian int16 PCM.
        outputs: the teachers' outputs by role.
    """

    id: str
    length: int
    frame: Callable[[int], bytes] | None
    speech: bytes | memoryview
    outputs: dict[str, np.ndarray]


def decode_jobs(jobs: Iterable[RowGroupJob], spec: WindowSpec) -> Iterator[list[Window]]:
    """Yield the windows of each job, while the next ``READ_AHEAD`` row groups are being read."""
    waiting = iter(jobs)
    with ThreadPoolExecutor(READ_AHEAD, "read-ahead") as pool:

        def submit(count: int) -> Iterator[tuple[RowGroupJob, Any]]:
            return ((job, pool.submit(read_group, job, spec)) for job in itertools.islice(waiting, count))

        reading = deque(submit(READ_AHEAD))
        while reading:
            job, future = reading.popleft()
            group = future.result()
            reading.extend(submit(1))
            yield [cut_window(clip, spec, job.epoch) for clip in clips_of(group, job.rows)]


def read_group(job: RowGroupJob, spec: WindowSpec) -> RowGroup:
    """Read the row group of a job and the teachers' outputs for its rows.

    Raises:
        ArtifactError: the shard is damaged, or outputs are missing or belong to other clips.
    """
    with shards.open_shard(job.uri) as f:
        columns = ["id", "num_frames", "speech", *(["frames"] if spec.pictures else [])]
        table = f.read_row_group(job.group, columns, use_threads=False).combine_chunks()
    ids: list[str] = table["id"].to_pylist()
    roles = TEACHERS if spec.teachers else ()
    named = [ids[row] for row in job.rows]
    return RowGroup(
        ids,
        table["num_frames"].to_pylist(),
        table["frames"].chunk(0) if spec.pictures else None,
        table["speech"].chunk(0),
        {role: read_outputs(spec.corpus, role, job, named) for role in roles},
    )


def clips_of(group: RowGroup, rows: Sequence[int]) -> Iterator[EncodedClip]:
    """Yield the clips of the given rows."""
    for i, row in enumerate(rows):
        yield EncodedClip(
            group.ids[row],
            group.lengths[row],
            None if group.frames is None else functools.partial(_frame_of, group.frames[row].values),
            group.speech[row].as_buffer(),
            {role: values[i] for role, values in group.outputs.items()},
        )


def _frame_of(encoded: Any, number: int) -> bytes:
    data: bytes = encoded[number].as_py()
    return data


def cut_window(clip: EncodedClip, spec: WindowSpec, epoch: int) -> Window:
    """Choose target frames, reference frames and speech of a clip; only these frames are decoded.

    The choice depends on seed, epoch and clip alone.
    """
    length, n = spec.speech_frames, clip.length
    rng = np.random.default_rng([spec.seed, epoch, zlib.crc32(clip.id.encode())])
    targets, offset, consecutive = choose_frames(spec, n, rng)
    valid = min(length, n - offset)
    others = np.setdiff1d(np.arange(n), targets)
    references = rng.choice(others if len(others) else targets, REFERENCES, replace=len(others) < REFERENCES)
    speech = np.zeros(frames_to_samples(length), np.int16)
    samples = np.frombuffer(clip.speech, "<i2")[frames_to_samples(offset) : frames_to_samples(offset + valid)]
    speech[: len(samples)] = samples
    window: Window = {
        "id": np.asarray(clip.id),
        "speech": speech,
        "speech_mask": np.arange(length) < valid,
    }
    if clip.frame is not None:
        pixels = shards.decode_frames([clip.frame(int(k)) for k in [*targets, *references]])
        window |= {"frames": pixels[: spec.frames], "references": pixels[spec.frames :]}
        window |= {"index": targets - offset, "consecutive": np.asarray(consecutive)}
    if "identity" in clip.outputs:
        window["identity"] = clip.outputs["identity"]
    if "emotion" in clip.outputs:
        window["emotion"] = np.zeros((length, clip.outputs["emotion"].shape[1]), np.float32)
        window["emotion"][:valid] = clip.outputs["emotion"][offset : offset + valid]
    return window


def choose_frames(spec: WindowSpec, length: int, rng: np.random.Generator) -> tuple[np.ndarray, int, bool]:
    """Choose the target frames of a clip of ``length`` frames.

    Returns:
        their positions in the clip, int64 ``[T]``, ascending; the first frame of the speech; whether they are
        consecutive.
    """
    t = spec.frames
    consecutive = bool(rng.random() < spec.window_share)
    if consecutive:
        first = int(rng.integers(length - t + 1))
        earliest, latest = max(0, first + t - spec.speech_frames), min(first, max(0, length - spec.speech_frames))
        return np.arange(first, first + t), int(rng.integers(earliest, latest + 1)), True
    offset = int(rng.integers(max(0, length - spec.speech_frames) + 1))
    inside = min(spec.speech_frames, length - offset)
    return offset + np.sort(rng.permutation(inside)[:t]), offset, False


def read_outputs(corpus: str, role: str, job: RowGroupJob, ids: list[str]) -> list[np.ndarray]:
    """Read a teacher's outputs for the rows of a job.

    Raises:
        ArtifactError: there are none, or they belong to other clips than ``ids``.
    """
    uri = shards.outputs_uri(corpus, role, job.uri)
    try:
        with shards.open_shard(uri) as f:
            inside = job.group < f.num_row_groups
            table = f.read_row_group(job.group, use_threads=False).take(list(job.rows)) if inside else None
    except FileNotFoundError:
        raise storage.ArtifactError(f"the {role} teacher has no outputs for {job.uri}: run `s2v teach`") from None
    if table is None or table["id"].to_pylist() != ids:
        raise storage.ArtifactError(
            f"the {role} teacher's outputs {uri} belong to other clips than those of {job.uri}: run `s2v teach` again"
        )
    flat = [v.values.to_numpy(zero_copy_only=False) for v in table["values"]]
    return [
        values.astype(np.float32).reshape(shape) for values, shape in zip(flat, table["shape"].to_pylist(), strict=True)
    ]


def collate(windows: Sequence[Window]) -> ClipBatch:
    """Stack decoded windows to a batch; pixels stay uint8."""
    return ClipBatch(**_stack(windows))


def collate_speech(windows: Sequence[Window]) -> SpeechBatch:
    """Stack windows without frames to a batch."""
    return SpeechBatch(**_stack(windows))


def _stack(windows: Sequence[Window]) -> dict[str, Any]:
    names = [name for name in windows[0] if name != "id"]
    stacked: dict[str, Any] = {name: torch.from_numpy(np.stack([w[name] for w in windows])) for name in names}
    stacked["speech"] = stacked["speech"].float().div_(32767.0).clamp_(-1.0, 1.0)
    return stacked | {"ids": [str(w["id"]) for w in windows]}
