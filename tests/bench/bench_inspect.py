"""Inspection of a corpus of 100,000 clips: seconds, memory, and how long a browser takes to load the page.

    python -m tests.bench.bench_inspect [--clips 100000] [--few 1000] [--json PATH]

The corpus has as many shards as one of that size; their contents repeat (hard links), since only labels are read of
most of them. Memory is the largest of an own process (VmHWM). The page is loaded by Chromium, the median of five times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from s2v_ray import shards, storage
from tests.helpers.browser import open_browser
from tests.helpers.results import write_result
from tests.helpers.tiny_corpus import make_clip

SHARD_CLIPS, FRAMES, SIZE, LOADS = 32, 75, 96, 5
KINDS = 8
"""Different shards."""
INSPECT = """
import json, time
from pathlib import Path
from s2v_ray.ingest.inspection import inspect_corpus, write_page
began = time.perf_counter()
found = inspect_corpus({corpus!r})
write_page(found, {page!r})
status = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
print(json.dumps({{"seconds": time.perf_counter() - began, "peak": peak, "clips": found.counts["split"].total()}}))
"""


def write_corpus(folder: Path, clips: int) -> str:
    """A corpus of ``clips`` clips of three seconds in one split."""
    count, split = clips // SHARD_CLIPS, folder / "train"
    for kind in range(KINDS):
        made = [make_clip(kind * SHARD_CLIPS + i, FRAMES, SIZE) for i in range(SHARD_CLIPS)]
        shards.write_shard(str(folder / f"kind{kind}"), [shards.encode_clip(clip) for clip in made])
    split.mkdir()
    for number in range(count):
        os.link(folder / f"kind{number % KINDS}", folder / shards.shard_name("train", number))
    empty = {"clips": 0, "shards": 0}
    splits = {"train": {"clips": count * SHARD_CLIPS, "shards": count}, "val": empty, "test": empty}
    storage.write_manifest(str(folder), "corpus", shards.CORPUS_SCHEMA, size=SIZE, splits=splits, rejects={})
    return str(folder)


def inspect(corpus: str, page: Path) -> dict[str, Any]:
    """Seconds and peak memory of an own process."""
    program = INSPECT.format(corpus=corpus, page=str(page))
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def load_seconds(page: Path, profile: Path) -> float:
    """From the start of the navigation to the end of the load event."""
    loads = []
    with open_browser(profile) as browser:
        for _ in range(LOADS):
            browser.get(f"file://{page}")
            loads.append(browser.execute_script("return performance.getEntriesByType('navigation')[0].duration") / 1000)
    return statistics.median(loads)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=1_000)
    parser.add_argument("--json")
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="s2v-bench-") as name:
        for label, clips in (("few", options.few), ("many", options.clips)):
            folder = Path(name) / label
            folder.mkdir()
            found[label] = inspect(write_corpus(folder, clips), Path(name) / f"{label}.html")
        page = Path(name) / "many.html"
        size, seconds = page.stat().st_size, load_seconds(page, Path(name) / "profile")
    ratio = found["many"]["peak"] / found["few"]["peak"]
    met = seconds <= 3 and ratio <= 1.1
    figures = [
        {"figure": "page load in Chromium, seconds", "bar": "at most 3", "measured": f"{seconds:.2f}"},
        {
            "figure": f"largest memory, {found['many']['clips']:,} clips / {found['few']['clips']:,}",
            "bar": "at most 1.1",
            "measured": f"{ratio:.3f} ({found['many']['peak'] / 2**20:.0f} MiB)",
        },
        {"figure": "seconds of the inspection", "bar": "stated", "measured": f"{found['many']['seconds']:.1f}"},
        {"figure": "size of the page, MB", "bar": "stated", "measured": f"{size / 1e6:.1f}"},
    ]
    for row in figures:
        print(f"{row['figure']:60}{row['measured']:>24}  ({row['bar']})")
    if options.json:
        write_result(options.json, figures)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
