"""Labelled stills of a corpus, from which its face networks are trained, and their augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from s2v_ray import shards, storage

MAX_STILLS_BYTES = 1 << 30
"""Stills held in memory, train and val together."""
STILLS_PER_CLIP = 16


@dataclass(frozen=True)
class Stills:
    """Stills of N clips, up to ``STILLS_PER_CLIP`` of each, evenly spaced.

    Attributes:
        frames: uint8 ``[M, S, S, 3]``.
        clip: int64 ``[M]``, the clip of each still.
        opening: float32 ``[M]``, true mouth opening; nan where unknown.
        speaker: ``[N]``, label of each clip, "" where unknown.
        emotion: ``[N]``, likewise.
        half: int64 ``[N]``, 0 or 1: which networks may be trained on the clip; -1 (val): none.
    """

    frames: Tensor
    clip: Tensor
    opening: Tensor
    speaker: np.ndarray
    emotion: np.ndarray
    half: np.ndarray

    def labels(self, kind: str) -> np.ndarray:
        """Return the clips' labels ``[N]`` of "speaker" (or "identity") or "emotion"."""
        return self.speaker if kind in ("speaker", "identity") else self.emotion


def read_stills(corpus: str, seed: int = 0) -> Stills:
    """Read the labelled stills of train and val. Each (speaker, emotion) is halved between teachers and judges.

    Raises:
        ArtifactError: the train split is empty, or a shard is damaged.
    """
    uris = [(uri, split) for split in ("train", "val") for uri in shards.shard_uris(corpus, split)]
    columns = ["id", "speaker", "emotion", "size"]
    heads = [(row, split) for uri, split in uris for row in shards.read_shard(uri, columns)]
    if not any(split == "train" for _, split in heads):
        raise storage.ArtifactError(f"{corpus} has no training clips to train face networks on: run `s2v ingest`")
    budget = MAX_STILLS_BYTES // (3 * max(row["size"] for row, _ in heads) ** 2)
    per_clip = int(np.clip(budget // len(heads), 1, STILLS_PER_CLIP))
    kept = set(np.random.default_rng(seed).permutation(len(heads))[:budget].tolist())
    frames: list[Tensor] = []
    clip: list[int] = []
    opening: list[float] = []
    known: list[tuple[dict[str, Any], str]] = []
    for number, row in enumerate(_rows([uri for uri, _ in uris])):
        if number not in kept:
            continue
        at = np.unique(np.linspace(0, len(row["frames"]) - 1, per_clip + 2)[1:-1].round().astype(int))
        frames.append(torch.from_numpy(shards.decode_frames([row["frames"][i] for i in at])))
        clip += [len(known)] * len(at)
        truth = row["mouth_opening"]
        opening += [float("nan") if truth is None else truth[i] for i in at]
        known.append(heads[number])
    speaker, emotion = (np.array([row[key] for row, _ in known]) for key in ("speaker", "emotion"))
    train = np.array([split == "train" for _, split in known])
    order = sorted(np.flatnonzero(train), key=lambda i: (speaker[i], emotion[i], known[i][0]["id"]))
    half = np.full(len(known), -1)
    half[order] = np.arange(len(order)) % 2
    return Stills(torch.cat(frames), torch.tensor(clip), torch.tensor(opening), speaker, emotion, half)


def _rows(uris: list[str]) -> Iterator[dict[str, Any]]:
    for uri in uris:
        yield from shards.read_shard(uri, ["frames", "mouth_opening"])


def augment_faces(faces: Tensor) -> Tensor:
    """Randomly rotate, scale, shift and blur faces ``[N, C, H, W]`` in [-1, 1]; change brightness and contrast.

    Half of them are blurred. Generated faces are soft and landmarks are never exact, so a judge must be robust to both.
    """
    n = len(faces)
    turn, size = 0.05 * torch.randn(n), 1 + 0.04 * torch.randn(n)
    shift = 0.04 * torch.randn(n, 2)
    cos, sin = size * turn.cos(), size * turn.sin()
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(faces.shape), align_corners=False)
    faces = F.grid_sample(faces, grid, padding_mode="border", align_corners=False)
    soft = F.avg_pool2d(faces, 5, stride=1, padding=2, count_include_pad=False)
    faces = torch.lerp(faces, soft, (2 * torch.rand(n, 1, 1, 1) - 1).clamp(min=0))
    return faces * (1 + 0.1 * torch.randn(n, 1, 1, 1)) + 0.08 * torch.randn(n, 1, 1, 1)
