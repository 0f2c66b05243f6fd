"""First pass of ingest: the files of one task -> a staged shard with their clips.

The result of a task is stored with the staged shard, so a task that was finished is not repeated when ingest is
restarted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s2v_ray import shards, storage
from s2v_ray.config import Recipe
from s2v_ray.ingest.crop import CroppedClip, Process
from s2v_ray.ingest.filters import QualityFilter
from s2v_ray.ingest.rejects import Reject
from s2v_ray.ingest.sources import SourceClip

FILES_PER_TASK = 8
"""Most files per task: an interrupted task has to repeat them. A task costs Ray as much CPU as a short file."""
MIN_TASKS = 32
"""Tasks have fewer files if there would be fewer tasks than this."""


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """A clip without its frames and speech.

    Attributes:
        id: of the clip.
        speaker, emotion, sentence: labels, as in ``Clip``.
        source: name of the file, with the suffix of a piece.
        frames: number of frames.
        staged_in: URI of the staged shard; "" for a clip that is in the corpus.
        row_group: its row group there.
        alignment: as in ``CroppedClip``; "" for a clip that is in the corpus.
    """

    id: str
    speaker: str
    emotion: str
    sentence: str
    source: str
    frames: int
    staged_in: str = ""
    row_group: int = 0
    alignment: str = ""


@dataclass(frozen=True, slots=True)
class RejectRecord:
    """A row of ``shards.REJECT_SCHEMA``."""

    source: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StagingResult:
    """The outcome for one clip, or for a file; if it is rejected, ``reason`` is not empty.

    It is flat, so that it can be a row of a Ray dataset.

    Attributes:
        index: number of the file in the source.
        piece: number of the clip in the file.
        reason, detail: as in ``RejectRecord``.
        id, speaker, emotion, sentence, source, frames, staged_in, row_group, alignment: as in ``ClipRecord``.
    """

    index: int
    piece: int
    source: str
    speaker: str
    id: str = ""
    emotion: str = ""
    sentence: str = ""
    frames: int = 0
    staged_in: str = ""
    row_group: int = 0
    alignment: str = ""
    reason: str = ""
    detail: str = ""

    @property
    def clip(self) -> ClipRecord:
        """The record of the clip."""
        return ClipRecord(
            self.id,
            self.speaker,
            self.emotion,
            self.sentence,
            self.source,
            self.frames,
            self.staged_in,
            self.row_group,
            self.alignment,
        )

    @property
    def reject(self) -> RejectRecord:
        """The record of the rejected file."""
        return RejectRecord(self.source, self.reason, self.detail)


def split_results(results: Sequence[StagingResult]) -> tuple[list[ClipRecord], list[RejectRecord]]:
    """Separates clips and rejects, both in the order of the source."""
    ordered = sorted(results, key=lambda r: (r.index, r.piece))
    return [r.clip for r in ordered if not r.reason], [r.reject for r in ordered if r.reason]


@dataclass(frozen=True)
class StagingTask:
    """Consecutive files of a source.

    Attributes:
        first: number of the first file in the source.
        files: the files.
    """

    first: int
    files: tuple[SourceClip, ...]

    def to_row(self) -> dict[str, Any]:
        """Returns the task as plain values."""
        return {"first": self.first, "files": [asdict(f) for f in self.files]}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> StagingTask:
        """Rebuilds a task from ``to_row``."""
        return cls(int(row["first"]), tuple(SourceClip(**f) for f in row["files"]))


def files_per_task(files: int) -> int:
    """Returns the number of files in each task of an ingest of ``files`` files."""
    return min(FILES_PER_TASK, max(1, files // MIN_TASKS))


def make_tasks(files: Sequence[SourceClip]) -> list[StagingTask]:
    """Divides the files of a source into tasks."""
    size = files_per_task(len(files))
    return [StagingTask(i, tuple(files[i : i + size])) for i in range(0, len(files), size)]


def stage(task: StagingTask, recipe: Recipe, folder: str) -> list[StagingResult]:
    """Processes the files of a task and writes their clips as one shard, a clip per row group.

    Args:
        task: the files.
        recipe: config of the ingest.
        folder: URI of the folder for staged shards.

    Returns:
        one result per clip, used or rejected, and per rejected file; those of an earlier call if the task was finished
        then.
    """
    staged = storage.join(folder, f"{task.first:09d}")
    if storage.exists(f"{staged}.json"):
        return [StagingResult(**row) for row in storage.read_json(f"{staged}.json")]
    results: list[StagingResult] = []
    rows: list[dict[str, Any]] = []
    config, quality = recipe.ingest, QualityFilter(recipe.ingest)
    for index, source in enumerate(task.files, task.first):
        try:
            quality.check_file(source)
            clips = Process(recipe).process(source)
        except Reject as e:
            results.append(_rejected(index, 0, source.name, source.speaker, e))
            continue
        for piece, cropped in enumerate(clips):
            clip = cropped.clip
            try:
                quality.check_clip(clip)
            except Reject as e:
                results.append(_rejected(index, piece, clip.source, source.speaker, e))
                continue
            results.append(_accepted(index, piece, cropped, f"{staged}.parquet", len(rows)))
            rows.append(shards.encode_clip(clip, config.jpeg_quality, config.jpeg_chroma))
    shards.write_shard(f"{staged}.parquet", rows, group=1)
    storage.write_json(f"{staged}.json", [asdict(r) for r in results])
    return results


def _rejected(index: int, piece: int, source: str, speaker: str, why: Reject) -> StagingResult:
    return StagingResult(index, piece, source, speaker, reason=why.reason.value, detail=why.detail)


def _accepted(index: int, piece: int, cropped: CroppedClip, uri: str, row_group: int) -> StagingResult:
    clip = cropped.clip
    return StagingResult(
        index,
        piece,
        clip.source,
        clip.speaker,
        clip.id,
        clip.emotion,
        clip.sentence,
        len(clip.frames),
        uri,
        row_group,
        cropped.alignment,
    )
