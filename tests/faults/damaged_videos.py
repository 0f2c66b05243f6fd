"""Damaged and unusual videos in one ingest: each gives a clip or is in the table of rejects, and none ends the run.

    python -m tests.faults.damaged_videos [--videos 200] [--seed 0]

Exit status 0 if every file is accounted for, and the page of `s2v inspect` has every reject with its reason.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from markupsafe import escape

from s2v_ray import shards, storage
from s2v_ray.ingest.inspection import inspect_corpus, write_page
from s2v_ray.media import face
from tests.helpers.recipes import tiny_recipe
from tests.helpers.videos import make_video

SIDE, RATE = 64, 16_000
RECIPE = tiny_recipe(ingest={"max_reject_share": 1.0})


def _video(path: Path, draw: random.Random, times: np.ndarray, *, sound: bool = True, vcodec: str = "mpeg4") -> Path:
    """Writes a video with a face in the middle and noise as speech, and its ground truth."""
    rng = np.random.default_rng(draw.randrange(2**32))
    frames = [rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8) for _ in times]
    said = rng.normal(0, 0.1, (1, max(round((float(times[-1]) + 0.04) * RATE), 1))).clip(-1, 1) if sound else None
    make_video(path, [float(t) for t in times], frames, said, RATE, vcodec=vcodec)
    truth = {
        "speaker": f"speaker{draw.randrange(4)}",
        "emotion": "happy",
        "sentence": path.stem,
        "landmarks": [(face.TEMPLATE * 56 + 4).tolist()] * len(times),
    }
    path.with_suffix(".json").write_text(json.dumps(truth))
    return path


def _grid(fps: float, seconds: float) -> np.ndarray:
    return np.arange(round(fps * seconds)) / fps


def _cut(path: Path, draw: random.Random) -> Path:
    data = _video(path.with_suffix(".mp4"), draw, _grid(25, 2)).read_bytes()
    path.with_suffix(".mp4").write_bytes(data[: draw.randrange(1, len(data))])
    return path


def _flip(path: Path, draw: random.Random) -> Path:
    path = path.with_suffix(draw.choice([".mp4", ".mkv", ".avi"]))
    data = bytearray(_video(path, draw, _grid(25, 2)).read_bytes())
    for _ in range(draw.choice([1, 10, 100])):
        data[draw.randrange(min(len(data), draw.choice([512, len(data)])))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    return path


def _patched(path: Path, draw: random.Random, old: bytes, new: bytes) -> Path:
    """An AVI, whose headers are believed, with something else in them."""
    path = _video(path.with_suffix(".avi"), draw, _grid(25, 1.2), vcodec="rawvideo" if len(old) == 8 else "mpeg4")
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


KINDS: dict[str, Callable[[Path, random.Random], object]] = {
    "sound": lambda path, draw: _video(path, draw, _grid(25, 2)),
    "cut": _cut,
    "bit-flipped": _flip,
    "zero length": lambda path, draw: path.write_bytes(b""),
    "no sound": lambda path, draw: _video(path, draw, _grid(25, 2), sound=False),
    "wrong extension": lambda path, draw: _video(path, draw, _grid(25, 2)).rename(path.with_suffix(".wmv")),
    "not a video": lambda path, draw: path.with_suffix(".mp4").write_bytes(draw.randbytes(5000)),
    "1 fps": lambda path, draw: _video(path, draw, _grid(1, 4)),
    "120 fps": lambda path, draw: _video(path, draw, _grid(120, 1.5)),
    "variable rate": lambda path, draw: _video(path, draw, np.array(sorted(draw.sample(range(0, 2000, 7), 60))) / 1000),
    "1 s": lambda path, draw: _video(path, draw, _grid(25, 1)),
    "8K header": lambda path, draw: _patched(
        path, draw, struct.pack("<ii", SIDE, SIDE), struct.pack("<ii", 7680, 4320)
    ),
    "absurd sample rate": lambda path, draw: _patched(
        path, draw, struct.pack("<I", RATE), struct.pack("<I", draw.choice([1, 44_101, 2**31 - 1, 0]))
    ),
}


def make(root: Path, count: int, seed: int) -> dict[str, str]:
    """``count`` files of all kinds in turn under ``root``, a source of the layout puppets; what kind each is."""
    root.mkdir(parents=True, exist_ok=True)
    kinds = {}
    for i in range(count):
        kind = list(KINDS)[i % len(KINDS)]
        KINDS[kind](root / f"{i:03d}.mkv", random.Random(f"{seed} {i}"))
        made = next(p for p in root.glob(f"{i:03d}.*") if p.suffix != ".json")
        kinds[made.name] = kind
    storage.write_manifest(str(root), "puppets", 1, digest="odd")
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from s2v_ray.ingest import ray_pipeline as pipeline

    with tempfile.TemporaryDirectory() as folder:
        kinds = make(Path(folder) / "videos", args.videos, args.seed)
        corpus = f"{folder}/corpus"
        manifest = pipeline.ingest(f"{folder}/videos", corpus, RECIPE)
        rows = shards.read_shard(storage.join(corpus, "rejects.parquet"))
        rejects = {r["source"]: r["reason"] for r in rows}
        page = Path(write_page(inspect_corpus(corpus), f"{folder}/page.html")).read_text()
        used = Counter(
            r["source"]
            for s in shards.SPLITS
            for uri in shards.shard_uris(corpus, s)
            for r in shards.read_shard(uri, ["source"])
        )
    for kind in KINDS:
        ends = Counter(
            "used" if name in used else rejects.get(name, "LOST") for name, its in kinds.items() if its == kind
        )
        print(f"{kind:20} {', '.join(f'{end} {n}' for end, n in sorted(ends.items()))}")
    lost = [name for name in kinds if (name in used) == (name in rejects)]
    wrong = [
        name for name, kind in kinds.items() if (kind in ("zero length", "no sound", "not a video")) and name in used
    ]
    unseen = [r["source"] for r in rows if not all(escape(r[key]) in page for key in ("source", "reason", "detail"))]
    ok = (
        not lost
        and not wrong
        and not unseen
        and manifest["files"] == len(kinds) == sum(map(bool, used.values())) + len(rejects)
    )
    print(
        f"{len(kinds)} files: {len(used)} used, {len(rejects)} rejected, {len(lost)} lost or duplicated, "
        f"{len(wrong)} used although they are empty"
    )
    print(f"{len(rows) - len(unseen)} of {len(rows)} rejects are on the page of `s2v inspect` with their reasons")
    print("OK" if ok else f"FAILED: {lost + wrong + unseen}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
