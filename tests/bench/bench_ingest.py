"""Cost of ingest: CPU time compared with decoding and encoding alone, and the driver's memory for more clips.

    python -m tests.bench.bench_ingest VIDEOS [--recipe puppets] [--rounds 3] [--files 120] [--clips 10000]
                                              [--parts cpu memory] [--json PATH]

**CPU**: user and system seconds per second of clip, for the first ``--files`` files of VIDEOS, without teachers:

- **bare**: PyAV decodes each file once, video and audio. Each frame is converted to RGB, resized to the size of the
  crop and encoded as in the shards (JPEG of the recipe's quality); the audio is resampled to 16 kHz mono. No
  face is detected, nothing is aligned, checked or stored.
- **stages**: the work of ingest's tasks, in this process: decode, (detect,) align, check, encode, stage, and write the
  shards.
- **ingest**: `s2v ingest`, the driver and all its descendants: raylet, workers, daemons of Ray. Starting Ray takes a
  constant CPU time (its processes, and the imports in each worker). So the cost of additional clips is compared: the
  difference between an ingest of all files and one of ``FEW_FILES``, divided by the difference of their durations.
  **ingest with its start** is the plain quotient.

**Memory**: the largest resident memory of the driver's process (VmHWM) for ``--clips`` tiny videos, and for 500. The
videos (1 s, 64 x 64, with different audio) are made here; 10,000 of them and their corpus take about 2 GB of disk.

Each ingest runs in its own process, with its own Ray.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np
import torch

from s2v_ray import shards, storage
from s2v_ray.cluster.runtime import start_ray
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.ingest import corpus as corpora
from s2v_ray.ingest import ray_pipeline as pipeline
from s2v_ray.ingest import staging
from s2v_ray.ingest.sources import SourceClip, list_clips
from s2v_ray.media.face import TEMPLATE
from s2v_ray.media.timing import FPS, SAMPLE_RATE
from tests.helpers.results import write_result

FEW_FILES = 12
FEW_CLIPS = 500
CPU_BAR, MEMORY_BAR = 1.5, 1.1


# ---- CPU


def bare(clips: list[SourceClip], size: int, quality: int) -> float:
    """CPU seconds."""
    began = time.process_time()
    for clip in clips:
        kept: list[Any] = []
        with av.open(clip.uri) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for frame in container.decode(video=0):
                picture = cv2.resize(frame.to_ndarray(format="rgb24"), (size, size), interpolation=cv2.INTER_AREA)
                kept.append(shards.encode_frame(picture, quality))
        with av.open(clip.uri) as container:
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            kept += [
                out.to_ndarray().tobytes() for frame in container.decode(audio=0) for out in resampler.resample(frame)
            ]
    return time.process_time() - began


def stages(clips: list[SourceClip], recipe: Recipe, folder: str) -> tuple[float, float]:
    """CPU seconds, and seconds of clip that came out; as ``pipeline.ingest``, but here."""
    began = time.process_time()
    work, size = storage.join(folder, corpora.WORK), staging.FILES_PER_TASK
    tasks = [staging.StagingTask(i, tuple(clips[i : i + size])) for i in range(0, len(clips), size)]
    records, _ = staging.split_results([result for task in tasks for result in staging.stage(task, recipe, work)])
    unique, _ = corpora.drop_duplicates([], records, [])
    for shard in corpora.plan_shards(corpora.ExistingCorpus(), unique, recipe):
        corpora.write_planned_shard(corpora.ShardAssembly.of(shard, folder))
    return time.process_time() - began, sum(record.frames for record in unique) / FPS


def measure_cpu(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    clips = list_clips(args.videos)[1][: args.files]
    if len(clips) <= FEW_FILES:
        raise SystemExit(f"{args.videos} has {len(clips)} files: more than {FEW_FILES} are needed")
    sides: dict[str, list[float]] = {"bare": [], "stages": [], "ingest": [], "ingest with its start": []}
    for n in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            if not n:  # warms up
                bare(clips[:2], recipe.media.size, recipe.ingest.jpeg_quality)
                stages(clips[:2], recipe, f"{folder}/warm")
            took, seconds = stages(clips, recipe, f"{folder}/stages")
            sides["stages"].append(took / seconds)
            sides["bare"].append(bare(clips, recipe.media.size, recipe.ingest.jpeg_quality) / seconds)
            few, many = (apart(args, args.videos, f"{folder}/{files}", files) for files in (FEW_FILES, len(clips)))
        sides["ingest"].append((many["cpu"] - few["cpu"]) / (many["clip_seconds"] - few["clip_seconds"]))
        sides["ingest with its start"].append(many["cpu"] / many["clip_seconds"])
        print(f"round {n + 1}: " + ", ".join(f"{name} {values[-1]:.4f}" for name, values in sides.items()), flush=True)
    median = {name: statistics.median(values) for name, values in sides.items()}
    print(
        f"\nCPU seconds per second of clip: {len(clips)} files, {seconds:.0f} s of clip, "
        f"{recipe.media.size} x {recipe.media.size}, {args.rounds} rounds"
    )
    for name, value in median.items():
        print(
            f"{name:24}{value:9.4f}{value / median['bare']:9.2f} x bare"
            + (f"   (bar {CPU_BAR})" if name == "ingest" else "")
        )
    return {
        "files": len(clips),
        "clip_seconds": seconds,
        "rounds": sides,
        "median": median,
        "ratio": median["ingest"] / median["bare"],
        "bar": CPU_BAR,
    }


# ---- memory


def make_videos(folder: Path, count: int) -> None:
    """``count`` videos of a second with their truth, as `s2v puppets` lays them out: the same picture, other sound."""
    rng = np.random.default_rng(0)
    sound = (rng.standard_normal(8000) * 3000).astype("<i2")
    marked = sound[1000:1016].tobytes()
    template = folder.parent / "template.avi"
    with av.open(str(template), "w") as out:
        picture = out.add_stream("mjpeg", rate=FPS, options={"threads": "1"})
        picture.width = picture.height = 64
        picture.pix_fmt, picture.time_base = "yuvj420p", Fraction(1, FPS)
        track = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        for i in range(FPS):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 5 * i, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(picture.encode(frame))
        samples = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        samples.sample_rate, samples.pts, samples.time_base = 8000, 0, Fraction(1, 8000)
        out.mux(track.encode(samples))
        out.mux(picture.encode(None))
    whole = template.read_bytes()
    if whole.count(marked) != 1:
        raise SystemExit("the sound of a made video is not where it was thought to be")
    before, after = whole.split(marked)
    landmarks = np.tile(np.asarray(TEMPLATE) * 64, (FPS, 1, 1)).round(2).tolist()
    for i in range(count):
        name = folder / f"speaker{i % 20:02d}" / f"{i:06d}"
        name.parent.mkdir(parents=True, exist_ok=True)
        name.with_suffix(".avi").write_bytes(before + hashlib.sha256(str(i).encode()).digest() + after)
        truth = {
            "speaker": f"speaker{i % 20:02d}",
            "emotion": "neutral",
            "sentence": f"s{i // 20 % 50}",
            "landmarks": landmarks,
        }
        name.with_suffix(".json").write_text(json.dumps(truth))
    storage.write_manifest(str(folder), "puppets", 1, digest=f"{count} tiny ones", config_digest="", parents={})


def measure_memory(args: argparse.Namespace) -> dict[str, Any]:
    found = {}
    for count in (min(FEW_CLIPS, args.clips // 2), args.clips):
        with tempfile.TemporaryDirectory() as folder:
            make_videos(Path(folder) / "videos", count)
            found[count] = apart(args, f"{folder}/videos", f"{folder}/corpus", count)
        if found[count]["clips"] != count:
            raise SystemExit(f"{found[count]['clips']} of {count} clips were ingested")
        print(f"{count} clips: {found[count]['seconds']:.0f} s, {found[count]['cpu']:.0f} CPU seconds", flush=True)
    (few, less), (many, more) = found.items()
    ratio, growth = more["peak"] / less["peak"], (more["peak"] - less["peak"]) / (many - few)
    print(f"\n{'driver, MiB':>16}{'Ray started':>14}{'peak':>10}")
    for count, one in found.items():
        print(f"{count:10} clips{one['rest'] / 2**20:14.1f}{one['peak'] / 2**20:10.1f}")
    print(f"{many} clips / {few} clips: {ratio:.3f} (bar {MEMORY_BAR}); {growth:.0f} bytes a clip more")
    return {"runs": found, "ratio": ratio, "bytes_a_clip": growth, "bar": MEMORY_BAR}


# ---- an ingest in a process of its own


def apart(args: argparse.Namespace, videos: str, corpus: str, files: int) -> dict[str, float]:
    """An ingest of the first ``files`` files, in a process of its own: see ``ingest_here``."""
    answer = f"{corpus}.json"
    settings = [word for s in args.set for word in ("--set", s)]
    words = [
        videos,
        "--recipe",
        args.recipe,
        *settings,
        "--files",
        str(files),
        "--ingest-here",
        corpus,
        "--json",
        answer,
    ]
    subprocess.run([sys.executable, "-m", "tests.bench.bench_ingest", *words], check=True)
    found: dict[str, float] = storage.read_json(answer)
    return found


def ingest_here(videos: str, corpus: str, recipe: Recipe, files: int) -> dict[str, float]:
    """CPU seconds of this process and its descendants, its memory after Ray's start and at the peak, and the clips."""
    import psutil
    import ray

    began = time.monotonic()
    start_ray()
    rest = memory("VmRSS")
    layout, clips = list_clips(videos)
    with mock.patch.object(pipeline, "list_clips", lambda *_: (layout, clips[:files])):
        manifest = pipeline.ingest(videos, corpus, recipe)
    seconds = time.monotonic() - began

    def spent() -> Iterator[float]:
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                yield sum(process.cpu_times()[:4])  # its own, and that of children that have ended

    found = {"cpu": sum(spent()), "rest": rest, "peak": memory("VmHWM"), "seconds": seconds}
    ray.shutdown()
    splits = manifest["splits"].values()
    return found | {"clips": sum(s["clips"] for s in splits), "clip_seconds": sum(s["frames"] for s in splits) / FPS}


def memory(name: str) -> int:
    """A line of /proc/self/status, bytes. (``ru_maxrss`` starts with the memory of the parent process.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos")
    parser.add_argument("--recipe", default="puppets")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=120)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--parts", nargs="+", choices=("cpu", "memory"), default=["cpu", "memory"])
    parser.add_argument("--json")
    parser.add_argument("--ingest-here", metavar="CORPUS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    for limit in (torch.set_num_threads, cv2.setNumThreads):
        limit(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as Ray sets it for its tasks
    recipe = load_recipe(args.recipe, args.set)
    if args.ingest_here:
        storage.write_json(args.json, ingest_here(args.videos, args.ingest_here, recipe, args.files))
        return 0
    args.videos = storage.absolute(args.videos)
    parts = {"cpu": lambda: measure_cpu(args, recipe), "memory": lambda: measure_memory(args)}
    results = {name: parts[name]() for name in args.parts}
    if args.json:
        write_result(args.json, results)
    return 0 if all(r["ratio"] <= r["bar"] for r in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
