"""Lag of sound behind picture without a trained network: mel to mouth by ridge regression, and bilabial plosives.

    python -m tests.bench.bench_lag CORPUS [--aligns FOLDER] [--json PATH]

All times are in ms.

**Regression**: the darkness of the inner mouth (open mouths are dark), and the first eight principal components of the
mouth region, are predicted from six mel frames (60 ms, 20 bands) around the centre of the video frame plus a lag of
-240 to 240 ms, by ridge regression with five folds of clips. The time is the lag at the peak of the share of explained
variance, interpolated by a parabola; positive: the sound is late. Speech has no sharp zero of its own here: lips move
before they are heard.

**Plosives**: FOLDER is the source of the corpus, with GRID's ``.align`` files beside the videos. Before the burst of a
word-initial b or p the lips are closed, for about 50 to 120 ms, and they open with the burst. So the mean darkness
around the bursts has its minimum about 40 ms before them where sound and picture are in step, and earlier by the lag
where the sound is late. A burst is the largest rise of the level above 1 kHz within 60 ms of the annotated start of the
word.

Intervals are 95%, from 1,000 resamples of clips.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from s2v_ray import shards
from s2v_ray.clip import Clip
from s2v_ray.media.audio import log_mel
from s2v_ray.media.regions import mouth_box
from s2v_ray.media.timing import FPS, MEL_HOP, MEL_PER_FRAME, SAMPLE_RATE
from tests.helpers.results import write_result

STEP = 1000 * MEL_HOP / SAMPLE_RATE
LAGS = np.arange(-24, 25, 2)  # mel frames
FOLDS, RIDGE, BANDS, PARTS = 5, 30.0, 20, 8
MIN_FRAMES = 25
UNITS = 25_000  # of the .align files, per second
BILABIAL = ("bin", "blue", "by", "place", "please", "b", "p")
AROUND = np.arange(-400.0, 401.0, 10.0)  # ms


class Faces:
    """Darkness of the inner mouth ``[T]``, mouth region ``[T, P]``, mel ``[4T, 80]`` and normalised bands of a clip."""

    def __init__(self, clip: Clip) -> None:
        luma = clip.frames @ np.array([0.299, 0.587, 0.114])
        y0, y1, x0, x1 = mouth_box(clip.frames.shape[1])
        region = luma[:, y0:y1, x0:x1]
        inner = region[:, (y1 - y0) // 4 : -(y1 - y0) // 4, (x1 - x0) // 4 : -(x1 - x0) // 4]
        self.darkness = _normal(-np.sort(inner.reshape(len(luma), -1), axis=1)[:, : inner[0].size // 5].mean(1))
        small = np.stack([cv2.resize(frame, (16, 12), interpolation=cv2.INTER_AREA) for frame in region])
        self.region = small.reshape(len(luma), -1) - small.reshape(len(luma), -1).mean(0)
        self.mel = log_mel(torch.from_numpy(clip.speech)[None])[0].numpy().T.astype(np.float64)
        bands = self.mel.reshape(len(self.mel), BANDS, -1).mean(2)
        self.bands = (bands - bands.mean(0)) / (bands.std(0) + 1e-6)
        self.source = clip.source


def _normal(values: np.ndarray) -> np.ndarray:
    normal: np.ndarray = (values - values.mean()) / (values.std() + 1e-6)
    return normal


def windows(faces: Faces, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames that all lags can use, and their mel windows ``[N, 6 * BANDS + 1]``."""
    reach = LAGS[-1] + 3
    frames = np.arange(-(-reach // MEL_PER_FRAME), len(faces.darkness) - -(-reach // MEL_PER_FRAME))
    at = frames[:, None] * MEL_PER_FRAME + lag + np.arange(-1, 5)
    found = faces.bands[at].reshape(len(frames), -1)
    return frames, np.hstack([found, np.ones((len(frames), 1))])


def explained(made: Sequence[Faces], target: Callable[[Faces], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors ``[clips, lags]`` of the held-out predictions, and squares ``[clips]`` of the targets."""
    errors = np.zeros((len(made), len(LAGS)))
    squares = np.zeros(len(made))
    for k, lag in enumerate(LAGS):
        found = [(windows(faces, int(lag)), target(faces)) for faces in made]
        xs, ys = [x for (_, x), _ in found], [y[frames] for (frames, _), y in found]
        grams = [(x.T @ x, x.T @ y) for x, y in zip(xs, ys, strict=True)]
        for fold in range(FOLDS):
            kept = [gram for i, gram in enumerate(grams) if i % FOLDS != fold]
            left = sum(g for g, _ in kept) + RIDGE * np.eye(xs[0].shape[1])
            weights = np.linalg.solve(left, sum(c for _, c in kept))
            for i in range(fold, len(made), FOLDS):
                errors[i, k] = np.square(ys[i] - xs[i] @ weights).sum()
                squares[i] = np.square(ys[i]).sum()
    return errors, squares


def peak(curve: np.ndarray, at: np.ndarray) -> float:
    """Position of the largest value, between the points by a parabola."""
    i = int(np.clip(curve.argmax(), 1, len(curve) - 2))
    a, b, c = curve[i - 1 : i + 2]
    return float(at[i] + (at[1] - at[0]) * 0.5 * (a - c) / min(a - 2 * b + c, -1e-12))


def interval(values: Sequence[float]) -> str:
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{low:.0f} to {high:.0f}"


def regression(made: Sequence[Faces], target: Callable[[Faces], np.ndarray], name: str) -> dict[str, Any]:
    errors, squares = explained(made, target)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(made), len(made)) for _ in range(1000)]
    curve = 1 - errors.sum(0) / squares.sum()
    peaks = [peak(1 - errors[d].sum(0) / squares[d].sum(), LAGS * STEP) for d in draws]
    best = peak(curve, LAGS * STEP)
    print(name, {int(lag * STEP): round(float(r), 3) for lag, r in zip(LAGS, curve, strict=True)})
    at_zero = float(curve[len(LAGS) // 2])
    figures = {"time, ms": round(best), "95%": interval(peaks), "clips or bursts": len(made)}
    return {"measure": name, **figures, "detail": f"R2 {curve.max():.3f} there, {at_zero:.3f} at 0"}


def bursts(faces: Faces, words: str) -> list[float]:
    """Times of the bursts of word-initial b and p, ms."""
    level = faces.mel[:, 25:].mean(1)  # from about 1 kHz
    found = []
    for line in words.splitlines():
        start, _, word = line.split()
        if word in BILABIAL:
            m = round(int(start) / UNITS * 1000 / STEP)
            low = max(m - 6, 2)
            rise = level[low + 1 : m + 8] - level[low - 1 : m + 6]
            if len(rise) and rise.max() > 0.3:
                found.append((low + int(rise.argmax()) + 0.5) * STEP)
    return found


def plosives(folder: str, made: Sequence[Faces]) -> dict[str, Any] | None:
    curves: list[tuple[int, np.ndarray]] = []
    times = (np.arange(1000) + 0.5) * 1000 / FPS
    for i, faces in enumerate(made):
        path = (Path(folder) / faces.source).with_suffix(".align")
        if path.exists():
            n = len(faces.darkness)
            for at in bursts(faces, path.read_text()):
                if at + AROUND[0] >= times[0] and at + AROUND[-1] <= times[n - 1]:
                    curves.append((i, np.interp(at + AROUND, times[:n], faces.darkness)))
    if not curves:
        return None
    owner, stacked = np.array([i for i, _ in curves]), np.stack([curve for _, curve in curves])
    near = (AROUND >= -250) & (AROUND <= 150)

    def closure(rows: np.ndarray) -> float:
        return peak(-rows.mean(0)[near], AROUND[near])

    rng = np.random.default_rng(0)
    groups = {i: np.flatnonzero(owner == i) for i in np.unique(owner)}
    draws = [np.concatenate([groups[i] for i in rng.choice(list(groups), len(groups))]) for _ in range(1000)]
    mean = stacked.mean(0)
    print("darkness around bursts", {int(a): round(float(d), 2) for a, d in zip(AROUND, mean, strict=True)})
    figures = {"time, ms": round(closure(stacked)), "95%": interval([closure(stacked[d]) for d in draws])}
    name = "time of the closest lips after the burst of b and p (about -40 in step)"
    return {"measure": name, **figures, "clips or bursts": len(stacked), "detail": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--aligns")
    parser.add_argument("--json")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    made = [Faces(clip) for split in shards.SPLITS for clip in shards.read_clips(args.corpus, split)]
    made = [faces for faces in made if len(faces.darkness) >= MIN_FRAMES]
    everything = np.concatenate([faces.region[::5] for faces in made])
    parts = np.linalg.svd(everything, full_matrices=False)[2][:PARTS].T
    rows = [
        regression(made, lambda faces: faces.darkness[:, None], "peak of the regression, darkness of the mouth"),
        regression(made, lambda faces: faces.region @ parts, "peak of the regression, principal components"),
    ]
    if args.aligns and (found := plosives(args.aligns, made)) is not None:
        rows.append(found)
    for row in rows:
        print(row)
    if args.json:
        write_result(args.json, rows)


if __name__ == "__main__":
    main()
