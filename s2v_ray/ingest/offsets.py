"""Offset of sound and picture: measured on a corpus by a sync network, corrected where ingest places a file in time.

    s2v ingest  videos corpus
    s2v offsets corpus offsets --sync ANOTHER/teachers/sync
    s2v ingest  videos corpus-in-step --set ingest.offsets=offsets --set ingest.offset=speaker

Why there, and not where windows are cut: the offset is a property of the recording. ``stages.Place`` already puts picture and sound
on one clock and keeps what both share, so the correction is one constant on the sound's clock, and the frames that lose their
partner fall away as they do at any file's ends. What comes out is an ordinary corpus: ids, lengths, the teachers' outputs and every
reader (training, teachers, judges, evaluation) agree with one another and know nothing of offsets, and corpora that were not corrected
are read as before. The price is that the videos are decoded a second time.

How it is measured is SyncNet's way (Chung and Zisserman 2016, "Out of time"): the mean distance of the embeddings of picture and sound
at each shift; the best shift is the offset, and the median minus the minimum over shifts says how sure that is. For a speaker, or the
whole source, the curves of the clips are averaged first, so that what a single clip cannot tell still adds up.

The network must come from elsewhere. One that was trained on recordings with a constant offset has learnt that offset as being in
step and finds 0 in them; it can only tell how single clips differ from the rest. Puppets are in step by construction.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from s2v_ray import config, shards, storage
from s2v_ray.clip import Clip, to_unit
from s2v_ray.config import IngestConfig
from s2v_ray.ingest.scan import file_of
from s2v_ray.ingest.sources import SourceClip
from s2v_ray.metrics.sync import MAX_OFFSET, sync_distances, sync_score
from s2v_ray.models.sync import SyncNetwork

OFFSETS_SCHEMA = 1
LEVELS = ("source", "speaker", "clip")  # from coarse to fine
MIN_SHARE = 0.5
"""Share of the clips that must be long enough for a shift to count in their average."""

_ROWS = pa.schema(
    [
        pa.field("level", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("confidence", pa.float64(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),
        pa.field("clips", pa.int32(), nullable=False),
    ]
)
_SHOWN = 20  # speakers in the printed table


@dataclass(frozen=True)
class Offset:
    """How far out of step something is.

    Attributes:
        level: "source" (all of it), "speaker", or "clip" (one file, all its pieces together).
        name: "" for the source, else the speaker's or the file's name.
        frames: by how many frames the sound comes after the picture.
        confidence: median minus minimum of the mean distance over shifts, in [0, 2]; near 0 where nothing can be told.
        distance: the minimum, in [0, 2].
        clips: clips of the corpus that it was measured on.
    """

    level: Literal["source", "speaker", "clip"]
    name: str
    frames: int
    confidence: float
    distance: float
    clips: int


@torch.inference_mode()
def distances(network: SyncNetwork, clip: Clip, max_offset: int = MAX_OFFSET) -> np.ndarray:
    """Mean distance of the clip's picture and sound, the sound taken ``k`` frames later, for k in -max_offset..max_offset.

    Only windows that have a partner count: nothing is padded or wrapped around.

    Returns:
        ``[2 * max_offset + 1]`` in [0, 2]; NaN at shifts that leave too few windows, everywhere if the clip is that short.
    """
    if len(clip.frames) < network.window:
        return np.full(2 * max_offset + 1, np.nan)
    heard = network.embed_speech(torch.from_numpy(clip.speech)[None])[0]
    seen = network.embed_frames(to_unit(torch.from_numpy(clip.frames))[None])[0]
    return sync_distances(heard.numpy(), seen.numpy(), max_offset)


def combine(curves: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of curves ``[2K + 1]``; NaN at shifts that count in fewer than ``MIN_SHARE`` of them."""
    stacked = np.stack(curves)
    counted = np.isfinite(stacked).sum(0)
    return np.where(counted >= MIN_SHARE * len(stacked), np.nansum(stacked, 0) / np.maximum(counted, 1), np.nan)


def summarise(level: Literal["source", "speaker", "clip"], name: str, curves: Sequence[np.ndarray]) -> Offset:
    """The offset of all clips that ``curves`` belong to; 0 with confidence 0 where their mean is flat or empty."""
    score = sync_score(combine(curves))
    if score.offset is None:
        return Offset(level, name, 0, 0.0, 0.0 if np.isnan(score.distance) else score.distance, len(curves))
    return Offset(level, name, score.offset, score.confidence, score.distance, len(curves))


def measure(clips: Iterable[Clip], network: SyncNetwork, max_offset: int = MAX_OFFSET) -> tuple[list[Offset], int]:
    """Offsets of the source, of each speaker and of each file; and how many clips were too short to tell anything.

    One clip is held at a time; what is kept of it is its curve.
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
    corpus: str,
    out: str,
    network: SyncNetwork,
    sync_digest: str,
    max_offset: int = MAX_OFFSET,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measures every clip of a corpus and writes ``OUT/offsets.parquet`` (a row for each ``Offset``) and ``OUT/manifest.json``.

    Args:
        network: a sync network that was not trained on this corpus, for frames of its size.
        sync_digest: SHA-256 of its weights, for the manifest.

    Returns:
        source (an ``Offset``), speakers (name to ``Offset``), clips (offset in frames to number of files), short (clips too short to tell).

    Raises:
        ArtifactError: no corpus, a damaged shard, nowhere to write, or no clip that is long enough.
        ValueError: max_offset is not positive.
    """
    if max_offset < 1:
        raise ValueError(f"the largest offset looked for must be at least 1 frame, not {max_offset}")
    manifest = shards.read_corpus_manifest(corpus)
    storage.check_writable(out)
    rows, short = measure(_clips(corpus, progress), network, max_offset)
    if not rows:
        raise storage.ArtifactError(
            f"no clip of {corpus} is long enough to measure its offset: {short} are too short for windows of {network.window} frames"
        )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(r) for r in rows], schema=_ROWS), buffer)
    storage.write_bytes(storage.join(out, "offsets.parquet"), buffer.getvalue())
    storage.write_manifest(
        out, "offsets", OFFSETS_SCHEMA, corrected="offset" in manifest, max_offset=max_offset, clips=rows[0].clips, short=short,
        digest=config.digest([asdict(r) for r in rows]), config_digest=manifest.get("config_digest", ""),
        parents={"corpus": manifest.get("digest", ""), "sync": sync_digest},
    )  # fmt: skip
    return {
        "source": asdict(rows[0]),
        "speakers": {r.name: asdict(r) for r in rows if r.level == "speaker"},
        "clips": {str(k): n for k, n in sorted(Counter(r.frames for r in rows if r.level == "clip").items())},
        "short": short,
    }


def read_offsets(uri: str) -> dict[tuple[str, str], Offset]:
    """What ``measure_corpus`` wrote, by level and name.

    Raises:
        ArtifactError: nothing there, damaged, or measured on a corpus that was already corrected: such offsets are what is left of the
            first ones, and would take their place.
    """
    if storage.read_manifest(uri, "offsets", OFFSETS_SCHEMA)["corrected"]:
        raise storage.ArtifactError(
            f"{uri} was measured on a corpus that was corrected already: give ingest the offsets that corpus was made with"
        )
    try:
        rows = pq.read_table(io.BytesIO(storage.read_bytes(storage.join(uri, "offsets.parquet")))).to_pylist()
    except (pa.ArrowInvalid, FileNotFoundError) as e:
        raise storage.ArtifactError(f"the offsets at {uri} are damaged: {e}") from e
    return {(r["level"], r["name"]): Offset(**r) for r in rows}


def correct(clips: Sequence[SourceClip], settings: IngestConfig) -> list[SourceClip]:
    """The same files, each with the number of frames by which its sound is late, as ``settings.offset`` says; as they are for "none".

    The finest level allowed decides, if it is sure enough (``settings.offset_confidence``), else the next coarser one. Where none is sure,
    the file is left as it is.

    Raises:
        ArtifactError: the offsets cannot be used.
    """
    if settings.offset == "none":
        return list(clips)
    known = read_offsets(settings.offsets)
    levels = LEVELS[LEVELS.index(settings.offset) :: -1]

    def late(clip: SourceClip) -> int:
        names = {"source": "", "speaker": clip.speaker, "clip": clip.name}
        found = (known.get((level, names[level])) for level in levels)
        return next((o.frames for o in found if o is not None and o.confidence >= settings.offset_confidence), 0)

    return [replace(clip, late=late(clip)) for clip in clips]


def describe(clips: Sequence[SourceClip], settings: IngestConfig) -> dict[str, Any]:
    """What a corpus's manifest says of its correction: level, digest of the offsets, and files by the frames they were moved by."""
    moved = Counter(c.late for c in clips)
    digest = storage.read_manifest(settings.offsets, "offsets", OFFSETS_SCHEMA)["digest"]
    return {"level": settings.offset, "offsets": digest, "files": {str(k): n for k, n in sorted(moved.items())}}


def format_table(result: dict[str, Any]) -> str:
    """What ``measure_corpus`` returned, for a person: the source, then the speakers that are furthest out of step."""
    speakers = sorted(result["speakers"].values(), key=lambda o: (-abs(o["frames"]), o["name"]))
    lines = [f"{'':24} {'offset':>8} {'confidence':>11} {'clips':>6}"]
    for row in [result["source"] | {"name": "the whole source"}, *speakers[:_SHOWN]]:
        lines.append(f"{row['name'][:24]:24} {row['frames']:+8d} {row['confidence']:11.3f} {row['clips']:6d}")
    if len(speakers) > _SHOWN:
        lines.append(f"... and {len(speakers) - _SHOWN} more speakers")
    counts = ", ".join(f"{int(k):+d}: {n}" for k, n in result["clips"].items())
    return "\n".join(
        [
            *lines,
            f"files by their own offset in frames (+: the sound comes late): {counts}",
            f"clips too short to tell: {result['short']}",
        ]
    )


def _clips(corpus: str, progress: Callable[[str], None]) -> Iterable[Clip]:
    uris = [uri for split in shards.SPLITS for uri in shards.shard_uris(corpus, split)]
    for i, uri in enumerate(uris, 1):
        for row in shards.read_shard(uri):
            yield shards.decode_clip(row)
        progress(f"offsets: {i}/{len(uris)} shards")
