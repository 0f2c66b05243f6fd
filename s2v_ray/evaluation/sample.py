"""Which clips are evaluated: evenly over speakers and emotions, seeded, without decoding the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip

LABELS = ["id", "speaker", "emotion", "sentence"]


@dataclass(frozen=True)
class Spoken:
    """A clip without its frames: labels, and ``speech`` float32 ``[T * 640]``."""

    id: str
    speaker: str
    emotion: str
    sentence: str
    speech: np.ndarray


def read_labels(corpus: str, split: str) -> list[dict[str, Any]]:
    """id, speaker, emotion and sentence of every clip of a split.

    Raises:
        ArtifactError: there is no clip.
    """
    rows = [row for uri in shards.shard_uris(corpus, split) for row in shards.read_shard(uri, LABELS)]
    if not rows:
        raise storage.ArtifactError(
            f"the corpus {corpus} has no clips in its split {split!r}; ingest more clips, or give that split a larger share"
        )
    return rows


def read_sample(corpus: str, split: str, count: int, seed: int) -> list[Clip]:
    """At most ``count`` clips of a split, decoded, in the corpus's order."""
    return [shards.decode_clip(row) for row in _rows(corpus, split, count, seed, None)]


def read_spoken(corpus: str, split: str, count: int, seed: int) -> list[Spoken]:
    """The same clips, without their frames."""
    rows = _rows(corpus, split, count, seed, [*LABELS, "speech"])
    return [
        Spoken(row["id"], row["speaker"], row["emotion"], row["sentence"], shards.decode_speech(row["speech"]))
        for row in rows
    ]


def choose(speakers: Sequence[str], emotions: Sequence[str], count: int, seed: int) -> list[int]:
    """Indices of at most ``count`` clips, one after the other from the speaker and emotion chosen least so far; ties by seeded chance."""
    _, speaker = np.unique(speakers, return_inverse=True)
    _, emotion = np.unique(emotions, return_inverse=True)
    speaker_cost, emotion_cost = np.zeros(speaker.max() + 1), np.zeros(emotion.max() + 1)
    chance = np.random.default_rng(seed).random(len(speaker))
    chosen: list[int] = []
    for _ in range(min(count, len(speaker))):
        best = int(np.argmin(speaker_cost[speaker] + emotion_cost[emotion] + chance))
        chosen.append(best)
        chance[best] = np.inf
        speaker_cost[speaker[best]] += len(
            speaker_cost
        )  # as many points a round as there are labels: both sides weigh alike
        emotion_cost[emotion[best]] += len(emotion_cost)
    return sorted(chosen)


def _rows(corpus: str, split: str, count: int, seed: int, columns: list[str] | None) -> list[dict[str, Any]]:
    labels = read_labels(corpus, split)
    wanted = {
        labels[i]["id"] for i in choose([r["speaker"] for r in labels], [r["emotion"] for r in labels], count, seed)
    }
    rows: list[dict[str, Any]] = []
    for uri in shards.shard_uris(corpus, split):
        if wanted.intersection(r["id"] for r in shards.read_shard(uri, ["id"])):
            rows += [row for row in shards.read_shard(uri, columns) if row["id"] in wanted]
    return rows
