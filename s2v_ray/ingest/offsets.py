"""Audio-video offset: measured on a corpus by a sync network, and corrected by ingest.

    s2v ingest  videos corpus
    s2v offsets corpus offsets --sync ANOTHER/teachers/sync
    s2v ingest  videos corpus-in-step --set ingest.offsets=offsets --set ingest.offset=speaker

The offset is a property of the recording, so it is corrected where ingest aligns a file's audio and video
(``align``), as a constant on the audio's clock, and frames without audio are dropped as at the ends of any file.
The result is an ordinary corpus: ids, lengths and the teachers' outputs are consistent, and no reader depends on
offsets. The cost is that the videos are decoded a second time.

The measurement is SyncNet's (Chung and Zisserman 2016, "Out of time"): the mean distance of the embeddings of video
and audio at each shift. The shift with the smallest distance is the offset, and the median minus the minimum over
shifts is its confidence. For a speaker, or the whole source, the curves of the clips are averaged first, which
gives confidence where single clips do not.

The network must be trained on another corpus. A network that is trained on recordings with a constant offset learns
it as the synchronous state and measures 0; it can only measure how single clips differ from the rest. Puppets are
synchronous by construction.
"""

from __future__ import annotations

import io
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from s2v_ray import config, shards, storage
from s2v_ray.clip import Clip, to_unit
from s2v_ray.config import IngestConfig
from s2v_ray.ingest.crop import file_of
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.logs import Progress, log_progress
from s2v_ray.metrics.sync import MAX_OFFSET, sync_distances, sync_score
from s2v_ray.models.sync import SyncBase

logger = logging.getLogger(__name__)

Level = Literal["source", "speaker", "clip"]
OFFSETS_SCHEMA = 1
LEVELS: tuple[Level, ...] = ("source", "speaker", "clip")
"""From coarse to fine."""
MIN_SHARE = 0.5
"""Minimum share of the clips that must be long enough for a shift to be used in their average."""
TABLE = "offsets.parquet"

_SCHEMA = pa.schema(
    [
        pa.field("level", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
    ]
)
_MAX_PRINTED = 20  # speakers in the printed table


@dataclass(frozen=True)
class Offset:
    """A measured offset.

    Attributes:
        level: "source" (all clips), "speaker", or "clip" (one file with all its pieces).
        name: "" for the source, else the name of the speaker or the file.
        frames: number of frames by which the audio comes after the video.
        confidence: median minus minimum of the mean distance over shifts, in [0, 2]; near 0 if no offset is
            distinguishable.
        distance: the minimum, in [0, 2].
        clips: number of clips that were measured.
    """

    level: Level
    name: str
    frames: int
    confidence: float
    distance: float
    clips: int


@dataclass(frozen=True)
class OffsetReport:
    """Result of ``measure_corpus``.

    Attributes:
        source: offset of the whole source.
        speakers: offset of each speaker.
        clips: number of files by their own offset, frames.
        short: number of clips that were too short.
    """

    source: Offset
    speakers: list[Offset]
    clips: dict[int, int]
    short: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: source, speakers by name, clips by offset, short."""
        return {
            "source": asdict(self.source),
            "speakers": {o.name: asdict(o) for o in self.speakers},
            "clips": {str(frames): files for frames, files in self.clips.items()},
            "short": self.short,
        }


@torch.inference_mode()
def distances(network: SyncBase, clip: Clip, max_offset: int = MAX_OFFSET) -> np.ndarray:
    """Computes the mean distance of video and audio with the audio shifted by k = -max_offset..max_offset frames.

    Only windows with a counterpart are used: nothing is padded or wrapped around.

    Returns:
        ``[2 * max_offset + 1]`` in [0, 2]; NaN at shifts with too few windows, everywhere if the clip is too short.
    """
    if len(clip.frames) < network.window:
        return np.full(2 * max_offset + 1, np.nan)
    speech = network.embed_speech(torch.from_numpy(clip.speech)[None])[0]
    frames = network.embed_frames(to_unit(torch.from_numpy(clip.frames))[None])[0]
    return sync_distances(speech.numpy(), frames.numpy(), max_offset)


def combine(curves: Sequence[np.ndarray]) -> np.ndarray:
    """Averages curves ``[2K + 1]``; NaN at shifts that are finite in fewer than ``MIN_SHARE`` of them."""
    stacked = np.stack(curves)
    counted = np.isfinite(stacked).sum(0)
    return np.where(counted >= MIN_SHARE * len(stacked), np.nansum(stacked, 0) / np.maximum(counted, 1), np.nan)


def summarise(level: Level, name: str, curves: Sequence[np.ndarray]) -> Offset:
    """Returns the offset of the clips with these curves; 0 with confidence 0 if their mean is flat or empty."""
    score = sync_score(combine(curves))
    if score.offset is None:
        return Offset(level, name, 0, 0.0, 0.0 if np.isnan(score.distance) else score.distance, len(curves))
    return Offset(level, name, score.offset, score.confidence, score.distance, len(curves))


def measure(clips: Iterable[Clip], network: SyncBase, max_offset: int = MAX_OFFSET) -> tuple[list[Offset], int]:
    """Measures the offsets of the source, of each speaker and of each file.

    Only one clip is in memory at a time.

    Returns:
        the offsets; and the number of clips that are too short to be measured.
    """
    curves: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    short = 0
    for clip in clips:
        curve = distances(network, clip, max_offset)
        if np.isfinite(curve).any():
            curves[clip.speaker][file_of(clip.source)].append(curve)
        else:
            short += 1
    by_speaker = {
        speaker: [c for pieces in files.values() for c in pieces] for speaker, files in sorted(curves.items())
    }
    everything = [c for found in by_speaker.values() for c in found]
    rows = [summarise("source", "", everything)] if everything else []
    rows += [summarise("speaker", speaker, found) for speaker, found in by_speaker.items()]
    rows += [
        summarise("clip", name, pieces) for speaker in by_speaker for name, pieces in sorted(curves[speaker].items())
    ]
    return rows, short


def measure_corpus(
    corpus: str, out: str, network: SyncBase, sync_digest: str, max_offset: int = MAX_OFFSET
) -> OffsetReport:
    """Measures every clip of a corpus; writes ``OUT/offsets.parquet`` (a row per ``Offset``) and ``OUT/manifest.json``.

    Args:
        corpus: URI of the corpus.
        out: URI of the folder to write.
        network: a sync network that was not trained on this corpus, for frames of its size.
        sync_digest: SHA-256 of the network's weights, for the manifest.
        max_offset: largest offset that is searched, frames.

    Raises:
        ArtifactError: there is no corpus, a shard is damaged, ``out`` cannot be written, or no clip is long enough.
        ValueError: max_offset is not positive.
    """
    if max_offset < 1:
        raise ValueError(f"the largest offset looked for must be at least 1 frame, not {max_offset}")
    manifest = shards.read_corpus_manifest(corpus)
    storage.check_writable(out)
    rows, short = measure(_read_clips(corpus), network, max_offset)
    if not rows:
        raise storage.ArtifactError(
            f"no clip of {corpus} is long enough to measure its offset: "
            f"{short} are too short for windows of {network.window} frames"
        )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rows], schema=_SCHEMA), buffer)
    storage.write_bytes(storage.join(out, TABLE), buffer.getvalue())
    storage.write_manifest(
        out,
        "offsets",
        OFFSETS_SCHEMA,
        corrected="offset" in manifest,
        max_offset=max_offset,
        clips=rows[0].clips,
        short=short,
        digest=config.digest([asdict(r) for r in rows]),
        config_digest=manifest.get("config_digest", ""),
        parents={"corpus": manifest.get("digest", ""), "sync": sync_digest},
    )
    files = Counter(r.frames for r in rows if r.level == "clip")
    return OffsetReport(rows[0], [r for r in rows if r.level == "speaker"], dict(sorted(files.items())), short)


def read_offsets(uri: str) -> dict[tuple[str, str], Offset]:
    """Reads what ``measure_corpus`` wrote, by level and name.

    Raises:
        ArtifactError: there are no offsets, they are damaged, or they were measured on a corrected corpus: such
            offsets are the remainder after the first correction and must not replace it.
    """
    if storage.read_manifest(uri, "offsets", OFFSETS_SCHEMA)["corrected"]:
        raise storage.ArtifactError(
            f"{uri} was measured on a corpus that was corrected already: "
            "give ingest the offsets that corpus was made with"
        )
    try:
        rows = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(uri, TABLE)))).to_pylist()
    except (pa.ArrowInvalid, FileNotFoundError) as e:
        raise storage.ArtifactError(f"the offsets at {uri} are damaged: {e}") from e
    return {(r["level"], r["name"]): Offset(**r) for r in rows}


def apply_offsets(clips: Sequence[SourceClip], settings: IngestConfig) -> list[SourceClip]:
    """Sets ``audio_delay`` of each file as ``settings.offset`` demands, and its ``sync_confidence``.

    Without ``settings.offsets`` the files are returned unchanged. The offset of the finest allowed level is used if its
    confidence is at least ``settings.offset_confidence``, else that of the next coarser level. If none has this
    confidence, the file is not corrected.

    Raises:
        ArtifactError: the offsets cannot be used.
    """
    if not settings.offsets:
        return list(clips)
    known = read_offsets(settings.offsets)
    levels = () if settings.offset == "none" else LEVELS[LEVELS.index(settings.offset) :: -1]

    def delay(clip: SourceClip) -> int:
        names = {"source": "", "speaker": clip.speaker, "clip": clip.name}
        found = (known.get((level, names[level])) for level in levels)
        return next((o.frames for o in found if o is not None and o.confidence >= settings.offset_confidence), 0)

    def confidence(clip: SourceClip) -> float | None:
        own = known.get(("clip", clip.name))
        return None if own is None else own.confidence

    return [replace(clip, audio_delay=delay(clip), sync_confidence=confidence(clip)) for clip in clips]


def describe_correction(clips: Sequence[SourceClip], settings: IngestConfig) -> dict[str, Any]:
    """Returns the manifest's entry: level, digest of the offsets, and number of files by correction in frames."""
    moved = Counter(c.audio_delay for c in clips)
    digest = storage.read_manifest(settings.offsets, "offsets", OFFSETS_SCHEMA)["digest"]
    return {"level": settings.offset, "offsets": digest, "files": {str(k): n for k, n in sorted(moved.items())}}


def format_table(report: OffsetReport) -> str:
    """Formats a report as text: the source, then the speakers with the largest offsets."""
    speakers = sorted(report.speakers, key=lambda o: (-abs(o.frames), o.name))
    lines = [f"{'':24} {'offset':>8} {'confidence':>11} {'clips':>6}"]
    for row in [replace(report.source, name="the whole source"), *speakers[:_MAX_PRINTED]]:
        lines.append(f"{row.name[:24]:24} {row.frames:+8d} {row.confidence:11.3f} {row.clips:6d}")
    if len(speakers) > _MAX_PRINTED:
        lines.append(f"... and {len(speakers) - _MAX_PRINTED} more speakers")
    counts = ", ".join(f"{frames:+d}: {n}" for frames, n in report.clips.items())
    lines += [
        f"files by their own offset in frames (+: the audio comes late): {counts}",
        f"clips too short to measure: {report.short}",
    ]
    return "\n".join(lines)


def _read_clips(corpus: str) -> Iterable[Clip]:
    uris = [uri for split in shards.SPLITS for uri in shards.shard_uris(corpus, split)]
    for i, uri in enumerate(uris, 1):
        for row in shards.read_shard(uri):
            yield shards.decode_clip(row)
        progress = Progress("offsets", i, len(uris), "shards")
        log_progress(logger, progress, "offsets: %d/%d shards", i, len(uris))
