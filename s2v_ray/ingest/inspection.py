"""Inspection of a corpus: counts of all clips, quality of a sample, rejects with their pictures, clips to play.

Memory does not grow with the corpus: all clips are counted by their labels, a sample is decoded.
"""

from __future__ import annotations

import base64
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import jinja2
import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.ingest.corpus import REJECTS
from s2v_ray.ingest.crop import file_of
from s2v_ray.ingest.filters import sharpness, turn_of
from s2v_ray.media.timing import FPS
from s2v_ray.media.video import iter_frames, write_mp4

PAGE = "inspection.html"
SAMPLED_CLIPS = 200
SHOWN_CLIPS = 12
SHOWN_SECONDS = 4.0
SHOWN_REJECTS = 500
PICTURES_OF_A_REASON = 24
PICTURE_SIDE = 128
SHOWN_LABELS = 50
"""Speakers and emotions that are listed; the rest is summed up."""
LABELS = ("speaker", "emotion", "split", "seconds")
SILENCE_DB = -60.0


@dataclass(frozen=True)
class ClipQuality:
    """Quality of one clip.

    Attributes:
        level_db: level of the speech, dB below full scale (RMS).
        clipped: share of samples at full scale.
        silent: share of frames whose sound is below -60 dB.
        sharpness: standard deviation of the Laplacian of the grey frames, mean over frames.
        turn: by how much the face is turned to a side, median over frames, degrees; 0 with the detector haar.
        brightness: mean of the grey frames, 0 to 255.
        motion: root mean square distance of the landmarks from their mean over the clip, pixels of the crop.
    """

    level_db: float
    clipped: float
    silent: float
    sharpness: float
    turn: float
    brightness: float
    motion: float


@dataclass(frozen=True)
class RejectedFile:
    """A file that was not used.

    Attributes:
        source: name in the source.
        reason: why (``ingest.rejects.Reason``).
        detail: what was found.
        picture: its first frame as JPEG, or b"" if it cannot be read.
    """

    source: str
    reason: str
    detail: str
    picture: bytes = b""


@dataclass(frozen=True)
class Inspection:
    """What is known of a corpus.

    Attributes:
        manifest: of the corpus.
        counts: label (``LABELS``) -> value -> number of clips; seconds are rounded.
        quality: figure of ``ClipQuality`` -> values of the sampled clips.
        rejects: at most ``SHOWN_REJECTS`` of them.
        clips: some of the sampled clips.
    """

    manifest: dict[str, Any]
    counts: dict[str, Counter[str]]
    quality: dict[str, np.ndarray]
    rejects: list[RejectedFile]
    clips: list[Clip]

    def summary(self) -> dict[str, Any]:
        """Counts, and median with 5th and 95th percentile of each figure, as plain values."""
        return {
            "clips": self.counts["split"].total(),
            "counts": {label: dict(counted.most_common()) for label, counted in self.counts.items()},
            "rejects": dict(self.manifest.get("rejects", {})),
            "quality": {
                name: dict(zip(("p05", "median", "p95"), np.percentile(values, (5, 50, 95)).tolist(), strict=True))
                for name, values in self.quality.items()
            },
        }


def inspect_corpus(corpus: str, sampled: int = SAMPLED_CLIPS) -> Inspection:
    """Count all clips of a corpus, and decode a sample that is evenly spread over it.

    Args:
        corpus: URI of the corpus.
        sampled: number of clips that are decoded.

    Raises:
        ArtifactError: there is no corpus, or a shard is damaged.
    """
    manifest = shards.read_corpus_manifest(corpus)
    uris = [(split, uri) for split in shards.SPLITS for uri in shards.shard_uris(corpus, split)]
    counts: dict[str, Counter[str]] = {label: Counter() for label in LABELS}
    sizes = []
    for split, uri in uris:
        rows = shards.read_shard(uri, ["speaker", "emotion", "num_frames"])
        sizes.append(len(rows))
        counts["split"][split] += len(rows)
        counts["speaker"].update(row["speaker"] for row in rows)
        counts["emotion"].update(row["emotion"] or "not labelled" for row in rows)
        counts["seconds"].update(str(round(row["num_frames"] / FPS)) for row in rows)
    clips = list(_spread([uri for _, uri in uris], sizes, sampled))
    measured = [asdict(measure(clip)) for clip in clips]
    names = ClipQuality.__dataclass_fields__ if measured else ()
    shown = [clips[i] for i in _evenly(len(clips), SHOWN_CLIPS)]
    return Inspection(
        manifest,
        counts,
        {name: np.array([values[name] for values in measured]) for name in names},
        _rejected_files(corpus, manifest.get("source", {}).get("uri", "")),
        shown,
    )


def measure(clip: Clip) -> ClipQuality:
    """Measure the quality of a clip."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
    frames = clip.speech[: len(clip.speech) // len(grey) * len(grey)].reshape(len(grey), -1)
    levels = _level_db((frames**2).mean(1))
    distance = clip.landmarks - clip.landmarks.mean(0)
    return ClipQuality(
        level_db=float(_level_db((clip.speech**2).mean())),
        clipped=float((np.abs(clip.speech) >= 0.999).mean()),
        silent=float((levels < SILENCE_DB).mean()),
        sharpness=sharpness(clip.frames),
        turn=turn_of(clip),
        brightness=float(np.mean(grey)),
        motion=float(np.sqrt((distance**2).sum(-1).mean())),
    )


def write_page(inspection: Inspection, uri: str) -> str:
    """Write an inspection as one self-contained HTML page; return its URI."""
    template = (resources.files("s2v_ray.ingest") / "templates" / PAGE).read_text()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        manifest=inspection.manifest,
        total=inspection.counts["split"].total(),
        counts={label: _listed(label, counted) for label, counted in inspection.counts.items()},
        quality=inspection.summary()["quality"],
        sampled=len(next(iter(inspection.quality.values()), ())),
        about=_descriptions(),
        rejects=inspection.rejects,
        rejected=sum(inspection.manifest.get("rejects", {}).values()),
        clips=[(clip, _playable(clip)) for clip in inspection.clips],
        encoded=lambda data: base64.b64encode(data).decode(),
    )
    storage.write_bytes(uri, page.encode())
    return uri


def _descriptions() -> dict[str, str]:
    """Description of each figure, from the docstring of ``ClipQuality``."""
    lines = (ClipQuality.__doc__ or "").partition("Attributes:")[2].strip().splitlines()
    return {name.strip(): text.strip() for name, _, text in (line.partition(":") for line in lines)}


def _listed(label: str, counted: Counter[str]) -> list[tuple[str, int]]:
    """Values and counts in the order of the page: by number for seconds, else the most frequent first."""
    if label == "seconds":
        return sorted(counted.items(), key=lambda item: int(item[0]))
    listed = counted.most_common(SHOWN_LABELS)
    rest = len(counted) - len(listed)
    return [*listed, (f"{rest} others", counted.total() - sum(n for _, n in listed))] if rest else listed


def _level_db(power: np.ndarray) -> np.ndarray:
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)))


def _spread(uris: Sequence[str], sizes: Sequence[int], wanted: int) -> Iterator[Clip]:
    """Decode clips evenly spread over all shards."""
    total = sum(sizes)
    chosen = (
        np.unique(np.linspace(0, total - 1, min(wanted, total)).round().astype(int)) if total else np.array([], int)
    )
    first = 0
    for uri, size in zip(uris, sizes, strict=True):
        inside = [int(i) - first for i in chosen if first <= i < first + size]
        if inside:
            rows = shards.read_shard(uri)
            yield from (shards.decode_clip(rows[i]) for i in inside)
        first += size


def _evenly(total: int, wanted: int) -> list[int]:
    """Indices below ``total``, at most ``wanted`` of them, evenly spaced."""
    return sorted(set(np.linspace(0, total - 1, min(wanted, total)).round().astype(int).tolist()))


def _rejected_files(corpus: str, source: str) -> list[RejectedFile]:
    """Read the table of rejects, and the first frame of some files of each reason."""
    table = storage.join(corpus, REJECTS)
    rows = shards.read_shard(table) if storage.exists(table) else []
    pictured: Counter[str] = Counter()
    found = []
    for row in islice(rows, SHOWN_REJECTS):
        picture = b""
        if source and pictured[row["reason"]] < PICTURES_OF_A_REASON:
            picture = _first_frame(storage.join(source, file_of(row["source"])))
            pictured[row["reason"]] += 1
        found.append(RejectedFile(row["source"], row["reason"], row["detail"], picture))
    return found


def _first_frame(uri: str) -> bytes:
    """The first frame of a video as a small JPEG; b"" if it cannot be read, which may be why it was rejected."""
    with tempfile.TemporaryDirectory(prefix="s2v-inspect-") as folder:
        try:
            _, frame = next(iter_frames(storage.download(uri, folder)))
            image = frame.rgb()
        except (OSError, ValueError, StopIteration, av.FFmpegError):
            return b""
    scale = PICTURE_SIDE / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return shards.encode_frame(small, 85)


def _playable(clip: Clip) -> bytes:
    """The beginning of a clip as MP4."""
    frames = clip.frames[: round(SHOWN_SECONDS * FPS)]
    with tempfile.TemporaryDirectory(prefix="s2v-inspect-") as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames, clip.speech[: len(frames) * len(clip.speech) // len(clip.frames)])
        return path.read_bytes()
