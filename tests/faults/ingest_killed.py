"""Kills ingest (SIGKILL to it and its Ray) at random times, then lets it finish: the corpus must not differ.

    python -m tests.faults.ingest_killed [--kills 20] [--clips 64] [--seed 0]

Exit status 0 if the corpus has the bytes of that of an uninterrupted run, with no clip lost or duplicated.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from s2v_ray import shards, storage
from tests.faults.damaged_videos import KINDS, make

RUN = (
    "import sys; from s2v_ray.ingest.ray_pipeline import ingest; from tests.faults.damaged_videos import RECIPE; "
    "ingest(sys.argv[1], sys.argv[2], RECIPE)"
)


def start(source: str, corpus: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, source, corpus],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def family(pid: int) -> list[int]:
    """A process and its descendants; Ray starts some of them in other sessions."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def content(corpus: str) -> dict[str, bytes]:
    return {uri.removeprefix(corpus): storage.read_bytes(uri) for uri in storage.list_files(corpus)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        source, whole, corpus = f"{folder}/videos", f"{folder}/whole", f"{folder}/corpus"
        make(Path(source), args.clips, args.seed)
        began = time.monotonic()
        run = start(source, whole)
        if run.wait():
            raise SystemExit(f"the uninterrupted ingest failed: {run.stderr.read().decode() if run.stderr else ''}")
        seconds = time.monotonic() - began
        print(f"{args.clips} files of {len(KINDS)} kinds; uninterrupted: {seconds:.1f} s", flush=True)
        killed = 0
        while killed < args.kills:
            run, moment = start(source, corpus), draw.uniform(0.2, 1.0) * seconds
            try:
                run.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                for pid in reversed(family(run.pid)):
                    os.kill(pid, signal.SIGKILL)
                run.wait()
                killed += 1
                staged, there = (
                    len(storage.list_files(f"{corpus}/.ingest", ".json")),
                    storage.exists(f"{corpus}/manifest.json"),
                )
                print(
                    f"kill {killed} after {moment:.1f} s: {staged} tasks staged, "
                    f"manifest {'written' if there else 'not written'}",
                    flush=True,
                )
            else:
                print("it ended before it was killed: starting again without the corpus", flush=True)
                storage.remove(corpus)
        last = start(source, corpus)
        if last.wait():
            raise SystemExit(
                f"FAILED: the last ingest did not finish: {last.stderr.read().decode() if last.stderr else ''}"
            )
        same = content(corpus) == content(whole)
        ids = [
            row["id"]
            for split in shards.SPLITS
            for uri in shards.shard_uris(corpus, split)
            for row in shards.read_shard(uri, ["id"])
        ]
        ok = same and len(ids) == len(set(ids))
        print(
            f"{len(ids)} clips, {len(set(ids))} different; byte for byte the same: {same}; {'OK' if ok else 'FAILED'}"
        )
        return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
