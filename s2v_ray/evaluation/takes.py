"""Other takes of a speaker: further clips of the corpus, which show what speech does not determine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip

CACHED_TAKES = 16
"""Decoded takes that are kept in memory."""
MEAN_TAKES, MEAN_FRAMES = 24, 8
"""Takes of a speaker, and evenly spaced frames of each, whose mean is the mean frame."""
SPLITS = ("train", "val", "test")
"""Where takes are looked for: in the first of these splits that has one."""


class Takes(Protocol):
    """Finds other takes of the speaker of a clip."""

    def of(self, clip: Clip, count: int) -> list[Clip]:
        """At most ``count`` clips of the same speaker other than ``clip``; the same ones in every call."""
        ...

    def mean_frame(self, clip: Clip) -> np.ndarray | None:
        """Mean over frames of the speaker's other takes, uint8 ``[H, W, 3]``; None if there is none."""
        ...

    def references(self, speaker: str, count: int) -> list[Clip]:
        """At most ``count`` training clips of a speaker that ``of`` has not given."""
        ...


@dataclass(frozen=True)
class TakeLocation:
    """Where a clip is stored, and what decides whether it is chosen.

    Attributes:
        id: id of the clip.
        frames: number of its frames.
        uri: its shard.
        group: its row group in the shard.
        row: its row in the row group.
    """

    id: str
    frames: int
    uri: str
    group: int
    row: int


class CorpusTakes:
    """The takes of a corpus. Only labels are read at first, and takes are decoded when they are asked for.

    Args:
        corpus: URI of the corpus.
        seed: seed of the choice.

    Raises:
        ArtifactError: there is no corpus, or a shard is damaged.
    """

    def __init__(self, corpus: str, seed: int) -> None:
        self.seed = seed
        self._speakers: dict[str, dict[str, list[TakeLocation]]] = {split: {} for split in SPLITS}
        for split in SPLITS:
            for uri in shards.shard_uris(corpus, split):
                for speaker, location in _locations(uri):
                    self._speakers[split].setdefault(speaker, []).append(location)
        self._read = lru_cache(CACHED_TAKES)(read_take)
        self._given: set[str] = set()
        self._means: dict[tuple[str, ...], np.ndarray] = {}

    def of(self, clip: Clip, count: int) -> list[Clip]:
        """At most ``count`` clips of the same speaker other than ``clip``.

        They come from the training split; from the next split only if the speaker has no other clip there. One half of
        the clips comes first, the other half is meant for ``references``. Within a half, takes that are at least as
        long as the clip come first, then longer ones before shorter ones; equal ones are ordered by a hash of seed,
        clip and take.
        """
        chosen = self._order(clip)[:count]
        self._given.update(location.id for location in chosen)
        return [self._read(location) for location in chosen]

    def mean_frame(self, clip: Clip) -> np.ndarray | None:
        """Mean over ``MEAN_FRAMES`` frames of each of at most ``MEAN_TAKES`` other takes, uint8 ``[H, W, 3]``."""
        others = sorted(self._others(clip), key=lambda take: self._hash("mean", take.id))[:MEAN_TAKES]
        if not others:
            return None
        key = tuple(location.id for location in others)
        if key not in self._means:
            self._means[key] = mean_of_frames([read_take(location).frames for location in others])
        return self._means[key]

    def references(self, speaker: str, count: int) -> list[Clip]:
        """At most ``count`` training clips of a speaker with which generated frames are compared.

        They belong to the half of the clips from which ``of`` does not take any, and none of them was given by ``of``
        for want of clips in the other half. So the rows of real takes are compared with other takes than their own.
        """
        mine = self._speakers["train"].get(speaker, [])
        found = [take for take in mine if not self.is_take(take.id) and take.id not in self._given]
        chosen = sorted(found, key=lambda take: self._hash("reference", take.id))[:count]
        return [read_take(take) for take in chosen]

    def _others(self, clip: Clip) -> list[TakeLocation]:
        for split in SPLITS:
            found = [take for take in self._speakers[split].get(clip.speaker, []) if take.id != clip.id]
            if found:
                return found
        return []

    def _order(self, clip: Clip) -> list[TakeLocation]:
        length = len(clip.frames)

        def key(take: TakeLocation) -> tuple[bool, int, str]:
            return not self.is_take(take.id), -min(take.frames, length), self._hash(clip.id, take.id)

        return sorted(self._others(clip), key=key)

    def is_take(self, clip_id: str) -> bool:
        """Whether a clip belongs to the half from which ``of`` takes clips first."""
        return int(self._hash("half", clip_id), 16) % 2 == 0

    def _hash(self, *parts: str) -> str:
        return storage.sha256("\0".join((str(self.seed), *parts)).encode())


def read_take(location: TakeLocation) -> Clip:
    """Decodes the clip at a location."""
    return shards.decode_clip(shards.read_rows(location.uri, location.group)[location.row])


def _locations(uri: str) -> Iterator[tuple[str, TakeLocation]]:
    """Speaker and location of every clip of a shard."""
    with shards.open_shard(uri) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, ["id", "speaker", "num_frames"], use_threads=False).to_pylist()
            for n, row in enumerate(rows):
                yield row["speaker"], TakeLocation(row["id"], row["num_frames"], uri, group, n)


def mean_of_frames(takes: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of ``MEAN_FRAMES`` evenly spaced frames of each take, uint8 ``[H, W, 3]``."""
    means = [
        take[np.linspace(0, len(take) - 1, MEAN_FRAMES).round().astype(int)].mean(axis=0, dtype=np.float64)
        for take in takes
    ]
    rounded: np.ndarray = np.mean(means, axis=0).round().astype(np.uint8)
    return rounded


def stretched(frames: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` frames of a take; a shorter one is played forth and back (frames 0 1 2 1 0 1 ...)."""
    cycle = np.concatenate([np.arange(len(frames)), np.arange(len(frames) - 2, 0, -1)])
    chosen: np.ndarray = frames[np.resize(cycle, count)]
    return chosen
