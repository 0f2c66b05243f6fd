"""What a shard keeps of a frame: fidelity, bytes and decoding time of codecs, on the crops that ingest makes.

    python -m tests.bench.bench_frames SOURCE [SOURCE ...] [--names NAME ...] [--sizes 64 96] [--clips 16] [--every 5]
                                       [--rounds 9] [--detector haar] [--json PATH]

PSNR is that of the mean squared error over all frames of a source; the error is the largest of any value. Decoding is
CPU time of one thread, by ``shards.decode_frames`` for JPEG and by OpenCV for the others. Rounds measure the codecs in
turn, and a ratio is the median of the ratios within a round to the first codec of the list.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from s2v_ray import shards
from tests.helpers.crops import CropSpec, iter_crops
from tests.helpers.results import write_result


@dataclass(frozen=True)
class Codec:
    """How frames become bytes and back."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[Sequence[bytes]], np.ndarray] = shards.decode_frames


def by_opencv(suffix: str, *settings: int) -> Codec:
    def encode(frame: np.ndarray) -> bytes:
        return bytes(cv2.imencode(suffix, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), list(settings))[1].tobytes())

    def decode(encoded: Sequence[bytes]) -> np.ndarray:
        pictures = (cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in encoded)
        return np.stack([cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) for picture in pictures])

    return Codec(encode, decode)


CODECS = {
    "JPEG 92, 4:2:0": Codec(lambda frame: shards.encode_frame(frame, 92, "half")),
    "JPEG 98, 4:2:0": Codec(lambda frame: shards.encode_frame(frame, 98, "half")),
    "JPEG 95, 4:4:4": Codec(lambda frame: shards.encode_frame(frame, 95, "full")),
    "JPEG 98, 4:4:4": Codec(lambda frame: shards.encode_frame(frame, 98, "full")),
    "JPEG 100, 4:4:4": Codec(lambda frame: shards.encode_frame(frame, 100, "full")),
    "WebP, lossless": by_opencv(".webp", cv2.IMWRITE_WEBP_QUALITY, 101),
    "PNG": by_opencv(".png"),
}


def measure(frames: np.ndarray, rounds: int) -> dict[str, dict[str, float]]:
    """Figures of each codec on uint8 frames ``[N, S, S, 3]``."""
    encoded = {name: [codec.encode(frame) for frame in frames] for name, codec in CODECS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in CODECS}
    for turn in range(rounds + 1):
        for name, codec in CODECS.items():
            began = time.process_time()
            codec.decode(encoded[name])
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    first = next(iter(CODECS))
    figures = {}
    for name, codec in CODECS.items():
        error = np.abs(codec.decode(encoded[name]).astype(int) - frames)
        mse = float(np.square(error).mean())
        figures[name] = {
            "PSNR, dB": round(float(10 * np.log10(255**2 / mse)), 1) if mse else float("inf"),
            "largest error": int(error.max()),
            "bytes per frame": round(statistics.mean(len(data) for data in encoded[name])),
            "decoding, us per frame": round(1e6 * statistics.median(seconds[name]) / len(frames)),
            "decoding / first": round(
                statistics.median(a / b for a, b in zip(seconds[name], seconds[first], strict=True)), 2
            ),
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 96])
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--detector", default="haar")
    parser.add_argument("--json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for source, label in zip(args.sources, args.names or args.sources, strict=True):
        specs = [CropSpec(size) for size in args.sizes]
        made = list(iter_crops(source, args.clips, specs, args.detector))
        for i, size in enumerate(args.sizes):
            frames = np.concatenate([clips[i].clip.frames[:: args.every] for clips in made])
            for name, figures in measure(frames, args.rounds).items():
                psnr = "lossless" if figures["PSNR, dB"] == float("inf") else figures["PSNR, dB"]
                rows.append({"crops": f"{label}, {size} px", "codec": name, **figures, "PSNR, dB": psnr})
                print(rows[-1], flush=True)
    if args.json:
        write_result(args.json, rows)


if __name__ == "__main__":
    main()
