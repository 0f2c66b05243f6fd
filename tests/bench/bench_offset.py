"""Shifts the audio of a corpus's test clips and counts how often the shift is measured correctly.

    python -m tests.bench.bench_offset CORPUS --sync URI [--clips 40] [--most 5] [--json PATH]

Each clip loses MOST frames at both ends, so that nothing is padded. Its audio is then taken k frames later, for k in
-MOST..MOST, and the offset is measured on the clip alone, and on all clips together (their curves averaged, as for a
speaker). A network measures offsets relative to its training corpus: a constant offset there is its 0. A row of clips
with the audio of other clips shows the confidence without any synchrony.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace

from s2v_ray import shards
from s2v_ray.clip import Clip
from s2v_ray.ingest.offsets import distances, summarise
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.sync import open_sync
from tests.helpers.results import write_result


def shifted(clip: Clip, late: int, most: int) -> Clip:
    """The clip without ``most`` frames at both ends, with the audio ``late`` frames after the video."""
    kept = slice(most, len(clip.frames) - most)
    frames, begin = clip.frames[kept], frames_to_samples(most - late)
    speech = clip.speech[begin : begin + frames_to_samples(len(frames))]
    return replace(clip, frames=frames, landmarks=clip.landmarks[kept], speech=speech, mouth_opening=None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--sync", required=True, metavar="URI", help="CORPUS/teachers/sync or CORPUS/judges/sync")
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--most", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    network, digest = open_sync(args.sync, size=shards.read_corpus_manifest(args.corpus)["size"])
    clips = [
        shards.decode_clip(row) for uri in shards.shard_uris(args.corpus, "test") for row in shards.read_shard(uri)
    ]
    clips = [c for c in clips if len(c.frames) > 4 * args.most + network.window][: args.clips]
    if len(clips) < 2:
        parser.error(f"{args.corpus} has {len(clips)} test clips that are long enough")
    rows = []
    print(f"{len(clips)} clips")
    print(f"{'shift':>6} {'exact':>7} {'within 1':>9} {'confidence':>11} {'all together':>13}")
    for late in range(-args.most, args.most + 1):
        curves = [distances(network, shifted(c, late, args.most), 3 * args.most) for c in clips]
        alone, together = [summarise("clip", "", [c]) for c in curves], summarise("source", "", curves)
        row = {
            "shift": late,
            "exact": sum(o.frames == late for o in alone),
            "within_1": sum(abs(o.frames - late) <= 1 for o in alone),
            "confidence": statistics.median(o.confidence for o in alone),
            "together": together.frames,
        }
        rows.append(row)
        print(f"{late:+6d} {row['exact']:7d} {row['within_1']:9d} {row['confidence']:11.3f} {together.frames:+13d}")
    pairs = [
        (c, other) for c, other in zip(clips, clips[1:] + clips[:1], strict=True) if len(other.frames) >= len(c.frames)
    ]
    mismatched = [replace(c, speech=other.speech[: len(c.speech)]) for c, other in pairs]
    confidences = [summarise("clip", "", [distances(network, s, 3 * args.most)]).confidence for s in mismatched]
    exact, near, tried = sum(r["exact"] for r in rows), sum(r["within_1"] for r in rows), len(clips) * len(rows)
    print(
        f"alone: exact {exact} of {tried}, within a frame {near}; "
        f"together: {sum(r['together'] == r['shift'] for r in rows)} of {len(rows)}"
    )
    print(
        f"with another clip's sound, confidence {statistics.median(confidences):.3f}"
        if confidences
        else "no clip is as short as another's sound"
    )
    if args.json:
        write_result(args.json, {"corpus": args.corpus, "sync": digest, "clips": len(clips), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
