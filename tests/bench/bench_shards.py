"""Formats of a shard: the same clips in four of them. Bytes per clip, clips per second of one core, and PSNR.

    python -m tests.bench.bench_shards SOURCE [--clips 96] [--size 64] [--rounds 5] [--json PATH]

SOURCE is a folder of videos for `s2v ingest` (`s2v puppets` makes one). Each format contains the crops that ingest
makes, 8 clips per row group or 32 per tar, and yields the windows that training draws (8 frames and a still, 64
frames of speech), as tensors in batches of 8. Time is CPU time of the whole process, with one thread in every
library, so that other work on the machine has little influence; rounds measure the formats in turn, and ratios are
medians of ratios within a round.

Parquet is read by ``training.data``, in the shuffled order of the plan; tars by webdataset, with its own shuffle
buffer of
the same number of clips, in four ways: its usual one (each frame a member, its own `.decode("rgb8")`, by Pillow, of
every
frame); the same tars with only the window's frames decoded, by OpenCV; a clip's frames concatenated into one
member, also by OpenCV; and the latter with our JPEG decoder. Formats that were not chosen exist only here.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import torch
import webdataset
from av.video.codeccontext import VideoCodecContext

from s2v_ray import shards, storage
from s2v_ray.clip import Clip, ClipBatch
from s2v_ray.config import parse_recipe
from s2v_ray.ingest.crop import Process
from s2v_ray.ingest.rejects import Reject
from s2v_ray.ingest.sources import list_clips
from s2v_ray.split_index import read_index, write_index
from s2v_ray.training.data import ray_stream as stream
from s2v_ray.training.data.decode import EncodedClip, Window, WindowSpec, collate, cut_window
from s2v_ray.training.data.plan import LANE_CLIPS
from tests.helpers.results import write_result

FRAMES, SPEECH_FRAMES, BATCH, SHARD, GROUP = 8, 64, 8, 32, 8
EPOCHS = 5  # so that what a reader does once counts as little as in training
CHOSEN = "parquet, JPEG 98, 4:4:4"

Encode = Callable[[np.ndarray], list[bytes]]
Decode = Callable[[Sequence[bytes]], np.ndarray]


@dataclass(frozen=True)
class Format:
    """How frames become bytes and back, and how a folder of shards is written and read."""

    encode: Encode
    decode: Decode
    tar: str = ""  # "": Parquet; "clip": a member holds all frames of a clip; "frame": each frame is a member
    own: bool = False  # webdataset decodes them itself, all


def picture(suffix: str, *settings: int) -> Encode:
    def encode(frames: np.ndarray) -> list[bytes]:
        return [cv2.imencode(suffix, cv2.cvtColor(f, cv2.COLOR_RGB2BGR), list(settings))[1].tobytes() for f in frames]

    return encode


def encode_h264(frames: np.ndarray) -> list[bytes]:
    """A clip as key frames only, each with its headers, so that any of them can be decoded alone."""
    context = VideoCodecContext.create("libx264", "w")
    context.width, context.height = frames.shape[2], frames.shape[1]
    context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 25)
    context.options = {
        "crf": "16",
        "preset": "medium",
        "tune": "zerolatency",
        "x264-params": "keyint=1:repeat-headers=1:threads=1",
    }
    packets = []
    for i, data in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(data, format="rgb24")
        frame.pts, frame.time_base = i, context.time_base
        packets += context.encode(frame)
    return [bytes(p) for p in [*packets, *context.encode(None)]]


def decode_h264(encoded: Sequence[bytes]) -> np.ndarray:
    context = VideoCodecContext.create("h264", "r")
    context.thread_count = 1
    frames = [f for data in encoded for f in context.decode(av.Packet(data))] + context.decode(None)
    return np.stack([f.to_ndarray(format="rgb24") for f in frames])


def decode_by_opencv(encoded: Sequence[bytes]) -> np.ndarray:
    """What one would write without looking further."""
    return np.stack(
        [
            cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            for data in encoded
        ]
    )


def decode_by_pillow(encoded: Sequence[bytes]) -> np.ndarray:
    """What webdataset does."""
    return np.stack([np.asarray(PIL.Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])


def encode_jpeg(frames: np.ndarray) -> list[bytes]:
    """As in the shards."""
    return [shards.encode_frame(frame) for frame in frames]


FORMATS = {
    CHOSEN: Format(encode_jpeg, shards.decode_frames),
    "parquet, JPEG 92, 4:2:0": Format(picture(".jpg", cv2.IMWRITE_JPEG_QUALITY, 92), shards.decode_frames),
    "parquet, WebP 92": Format(picture(".webp", cv2.IMWRITE_WEBP_QUALITY, 92), decode_by_opencv),
    "parquet, H.264 key frames, crf 16": Format(encode_h264, decode_h264),
    "tar, JPEG 98, a member a clip": Format(encode_jpeg, decode_by_opencv, "clip"),
    "tar, the same, our JPEG decoder": Format(encode_jpeg, shards.decode_frames, "clip"),
    "tar, JPEG 98, a member a frame": Format(encode_jpeg, decode_by_opencv, "frame"),
    "tar, the same, webdataset's decoder": Format(encode_jpeg, decode_by_pillow, "frame", own=True),
}


def crops(source: str, count: int, size: int) -> list[Clip]:
    """The first clips of a source, as ingest makes them, before they are encoded."""
    recipe = parse_recipe({"media": {"size": size}, "gan": {"generator": {"channels": [8] * (size // 4).bit_length()}}})
    clips: list[Clip] = []
    for known in list_clips(source)[1]:
        try:
            clips += [c.clip for c in Process(recipe).process(known) if len(c.clip.frames) >= FRAMES]
        except Reject as e:
            print(f"{known.name} is left out: {e}")
        if len(clips) >= count:
            break
    return clips[:count]


def write(root: str, format: Format, clips: Sequence[Clip]) -> int:
    """Bytes of all shards together."""
    for n, start in enumerate(range(0, len(clips), SHARD)):
        mine = clips[start : start + SHARD]
        if format.tar:
            _write_tar(Path(root) / f"{n:05d}.tar", format, mine)
        else:
            rows = [shards.encode_clip(c) | {"frames": format.encode(c.frames)} for c in mine]
            shards.write_shard(storage.join(root, shards.shard_name("train", n)), rows, group=GROUP)
    if not format.tar:
        splits = {"train": {"clips": len(clips), "shards": -(-len(clips) // SHARD)}}
        lengths = [[len(c.frames) for c in clips[at : at + SHARD]] for at in range(0, len(clips), SHARD)]
        write_index(root, "train", lengths)
        storage.write_manifest(
            root,
            "corpus",
            shards.CORPUS_SCHEMA,
            size=clips[0].frames.shape[1],
            splits=splits,
            config_digest="",
            parents={},
        )
    return sum(p.stat().st_size for p in Path(root).rglob("*") if p.is_file())


def _write_tar(path: Path, format: Format, clips: Sequence[Clip]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in clips:
            frames = format.encode(clip.frames)
            members = {"json": json.dumps([len(f) for f in frames]).encode(), "pcm": shards.encode_clip(clip)["speech"]}
            if format.tar == "clip":
                members["mjpeg"] = b"".join(frames)
            else:
                members |= {f"{i:04d}.jpg": data for i, data in enumerate(frames)}
            for name, data in members.items():
                info = tarfile.TarInfo(f"{clip.id}.{name}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def read(root: str, format: Format, clips: int) -> Iterator[ClipBatch]:
    """Every clip ``EPOCHS`` times, shuffled, in batches."""
    with mock.patch.object(shards, "decode_frames", np.stack if format.own else format.decode):
        if format.tar:
            for _ in range(EPOCHS):
                yield from _read_tars(root, format)
            return
        steps = EPOCHS * clips // BATCH
        config = stream.StreamConfig(
            read_index(root, "train"),
            BATCH,
            FRAMES,
            SPEECH_FRAMES,
            seed=0,
            steps=steps,
            teachers=False,
            executor="local",
        )
        yield from stream.stream(config)


def _read_tars(root: str, format: Format) -> Iterator[ClipBatch]:
    window = WindowSpec(root, FRAMES, SPEECH_FRAMES, 0, teachers=False)
    urls = [str(p) for p in sorted(Path(root).glob("*.tar"))]

    def cut(sample: dict[str, Any]) -> dict[str, Window]:
        lengths = sample["json"] if format.own else json.loads(sample["json"])
        if format.tar == "clip":
            ends = np.cumsum(lengths)
            encoded = [sample["mjpeg"][e - n : e] for e, n in zip(ends.tolist(), lengths, strict=True)]
        else:
            encoded = [sample[f"{i:04d}.jpg"] for i in range(len(lengths))]
        return {
            "sample": cut_window(
                EncodedClip(sample["__key__"], len(lengths), encoded.__getitem__, sample["pcm"], {}), window, 0
            )
        }

    samples = webdataset.WebDataset(urls, shardshuffle=100, seed=0, empty_check=False).shuffle(LANE_CLIPS * BATCH)
    samples = (samples.decode("rgb8") if format.own else samples).map(cut)
    pending: list[Window] = []
    for found in samples:
        pending.append(found["sample"])
        if len(pending) == BATCH:
            yield collate(pending)
            pending = []


def psnr(clips: Sequence[Clip], format: Format) -> float:
    """Mean over clips of the PSNR of what comes back against the crops, dB."""
    return float(
        np.mean(
            [
                10
                * np.log10(255**2 / np.square(format.decode(format.encode(c.frames)).astype(float) - c.frames).mean())
                for c in clips
            ]
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    for limit in (torch.set_num_threads, cv2.setNumThreads, pa.set_cpu_count):
        limit(1)
    clips = crops(args.source, args.clips, args.size)
    clips = clips[: len(clips) // BATCH * BATCH]
    seconds = sum(len(c.frames) for c in clips) / 25
    print(f"{len(clips)} clips of {seconds / len(clips):.2f} s on average, {args.size} x {args.size}")
    speed: dict[str, list[float]] = {name: [] for name in FORMATS}
    with tempfile.TemporaryDirectory() as folder:
        roots = {name: f"{folder}/{i}" for i, name in enumerate(FORMATS)}
        size = {name: write(roots[name], f, clips) / len(clips) for name, f in FORMATS.items()}
        quality = {name: psnr(clips[:16], f) for name, f in FORMATS.items()}
        for turn in range(args.rounds + 1):
            for name, f in FORMATS.items():
                began = time.process_time()
                seen = [i for batch in read(roots[name], f, len(clips)) for i in batch.ids]
                took = time.process_time() - began
                if len(set(seen)) != len(clips) or len(seen) != EPOCHS * len(clips):
                    raise SystemExit(
                        f"{name}: {len(set(seen))} of {len(clips)} clips came back, in all {len(seen)} times"
                    )
                if turn:  # the first round warms up
                    speed[name].append(EPOCHS * len(clips) / took)
    print(f"{'format':36} {'kB a clip':>10} {'clips/s a core':>15} {'PSNR':>8} {'speed / chosen':>15}")
    results = {}
    for name in FORMATS:
        ratio = statistics.median(a / b for a, b in zip(speed[name], speed[CHOSEN], strict=True))
        results[name] = {
            "bytes": size[name],
            "clips_per_cpu_second": statistics.median(speed[name]),
            "psnr": quality[name],
            "against_chosen": ratio,
        }
        print(
            f"{name:36} {size[name] / 1000:10.1f} {statistics.median(speed[name]):15.0f} "
            f"{quality[name]:8.2f} {ratio:15.2f}"
        )
    for name in FORMATS:
        if FORMATS[name].tar:
            print(f"chosen / {name}: {1 / results[name]['against_chosen']:.2f} (bar 1.2)")
    if args.json:
        write_result(args.json, {"clips": len(clips), "seconds": seconds, "size": args.size, "formats": results})


if __name__ == "__main__":
    main()
