"""Alignment of real faces: how well a repeated still predicts a clip, with a transform for each frame or one a clip.

    python -m tests.bench.bench_align SOURCE [--clips 60] [--size 96] [--detector haar] [--json PATH]

The still is the clip's first frame. PSNR is the mean over clips of the PSNR of the mean squared error of a clip. The
drift is that of ``media.face.largest_drift`` with one transform.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np

from s2v_ray.ingest.crop import MAX_DRIFT, CroppedClip
from s2v_ray.media import face
from tests.helpers.crops import CropSpec, iter_crops
from tests.helpers.results import write_result

SMOOTHINGS = (0.08, 0.3, 1.0, 3.0)


def still_psnr(frames: np.ndarray) -> float:
    """PSNR of the first frame, repeated, against the frames of a clip, dB."""
    error = np.square(frames[1:].astype(float) - frames[:1]).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def clip_psnr(clips: list[list[CroppedClip]], column: int) -> float:
    return float(np.mean([still_psnr(row[column].clip.frames) for row in clips]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--detector", default="haar")
    parser.add_argument("--json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    specs = [CropSpec(args.size, "smooth", seconds) for seconds in SMOOTHINGS] + [CropSpec(args.size, "clip")]
    clips = list(iter_crops(args.source, args.clips, specs, args.detector))
    names = [f"a transform for each frame, smoothed over {seconds} s" for seconds in SMOOTHINGS]
    still = [round(clip_psnr(clips, i), 2) for i in range(len(specs))]
    rows = [
        {"alignment": name, "figure": "PSNR of the still, dB", "value": value}
        for name, value in zip([*names, "one transform per clip"], still, strict=True)
    ]
    identity = np.eye(2, 3)[None]
    drifts = sorted(face.largest_drift(row[-1].clip.landmarks, identity, args.size) for row in clips)
    moved = sum(row[-1].alignment != "clip" for row in clips)
    figures = {
        "drift, median, share of the side": round(float(np.median(drifts)), 3),
        "drift, 95%": round(float(np.quantile(drifts, 0.95)), 3),
        "drift, largest": round(drifts[-1], 3),
        f"clips with a drift above {MAX_DRIFT}": moved,
        "clips": len(clips),
    }
    rows += [{"alignment": "one transform per clip", "figure": name, "value": n} for name, n in figures.items()]
    for row in rows:
        print(row)
    if args.json:
        write_result(args.json, rows)


if __name__ == "__main__":
    main()
