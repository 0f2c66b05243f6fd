"""Crops of the first files of a source in several alignments, before they are encoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s2v_ray.config import IngestConfig
from s2v_ray.ingest.align import TemporalAlign
from s2v_ray.ingest.crop import Alignment, Crop, CroppedClip
from s2v_ray.ingest.rejects import Reject
from s2v_ray.ingest.scan import Scan
from s2v_ray.ingest.sources import list_clips


@dataclass(frozen=True)
class CropSpec:
    """Side in pixels, alignment, and smoothing in seconds (none where the source has ground truth)."""

    size: int
    align: Alignment = "clip"
    smoothing: float = 1.0


def iter_crops(source: str, count: int, specs: Sequence[CropSpec], detector: str) -> Iterator[list[CroppedClip]]:
    """Yields, for up to ``count`` files spread over the source, the clip of each spec; files are scanned once."""
    config = IngestConfig(detector=detector)
    files = list_clips(source)[1]
    for known in files[:: max(len(files) // count, 1)][:count]:
        try:
            scanned = Scan(config).process(known, known.uri)
            clips = []
            for spec in specs:
                smoothing = 0.0 if known.ground_truth else spec.smoothing
                aligned = TemporalAlign(config.min_seconds).process(scanned)
                (clip,) = Crop(spec.size, config.max_seconds, spec.align, smoothing).process(aligned)
                clips.append(clip)
        except Reject as e:
            print(f"{known.name} is left out: {e}")
            continue
        yield clips
