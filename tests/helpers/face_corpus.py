"""A corpus of drawn squares in which face networks can learn speaker, emotion and mouth opening in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip
from s2v_ray.config import Recipe, parse_recipe

SIZE, FRAMES = 32, 6
SPEAKERS = {"ann": (200, 60, 60), "ben": (60, 200, 60), "cat": (60, 60, 200), "dan": (190, 190, 60)}
EMOTIONS = {"happy": 8, "sad": 2}  # rows of the brow


def draw(speaker: str, emotion: str, opening: float, rng: np.random.Generator) -> np.ndarray:
    """Skin encodes the speaker, brow height the emotion, mouth height the opening: uint8 ``[S, S, 3]``."""
    frame = np.full((SIZE, SIZE, 3), 120.0)
    frame[2:30, 4:28] = SPEAKERS.get(speaker, (130, 130, 130))
    row = EMOTIONS.get(emotion, 5)
    frame[row : row + 3, 8:24] = 0
    frame[20 : 21 + round(7 * opening), 11:21] = 0
    return (frame + rng.normal(0, 4, frame.shape)).clip(0, 255).astype(np.uint8)


def make_face_corpus(
    folder: Path,
    speakers: tuple[str, ...] = tuple(SPEAKERS),
    emotions: tuple[str, ...] = tuple(EMOTIONS),
    mouth: bool = True,
    shuffled: bool = False,
) -> str:
    rng = np.random.default_rng(0)
    drawn = [(s, e, k) for s in speakers for e in emotions for k in range(6)]
    named = [drawn[i] for i in rng.permutation(len(drawn))] if shuffled else drawn
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for n, ((speaker, emotion, k), (named_speaker, named_emotion, _)) in enumerate(zip(drawn, named, strict=True)):
        opening = rng.uniform(size=FRAMES).astype(np.float32)
        frames = np.stack([draw(speaker, emotion, o, rng) for o in opening])
        clip = Clip(
            f"clip{n:03d}", frames, np.zeros(FRAMES * 640, np.float32), named_speaker, named_emotion, str(k), "drawn",
            np.zeros((FRAMES, 5, 2), np.float32), opening if mouth else None,
        )  # fmt: skip
        rows["val" if k >= 4 else "train"].append(shards.encode_clip(clip))
    for split, found in rows.items():
        shards.write_shard(storage.join(str(folder), split, "part-00000.parquet"), found)
    storage.write_manifest(
        str(folder),
        "corpus",
        shards.CORPUS_SCHEMA,
        size=SIZE,
        splits={split: {"shards": 1} for split in rows} | {"test": {"shards": 0}},
    )
    return str(folder)


def face_recipe(**sections: Any) -> Recipe:
    return parse_recipe({"teach": {"steps": 60, "batch": 32, "width": 8, "embedding": 16, "lr": 5e-3}} | sections)
