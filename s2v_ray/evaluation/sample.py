"""Selects the clips that are evaluated: evenly over speakers and emotions, with a seed, without decoding the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import Clip

LABELS = ["id", "speaker", "emotion", "sentence"]


@dataclass(frozen=True)
class SpeechClip:
    """A clip without its frames.

    Attributes:
        id: see ``clip.Clip``.
        speaker: see ``clip.Clip``.
        emotion: see ``clip.Clip``.
        sentence: see ``clip.Clip``.
        speech: float32 ``[T * 640]``.
    """

    id: str
    speaker: str
    emotion: str
    sentence: str
    speech: np.ndarray


def read_labels(corpus: str, split: str) -> list[dict[str, Any]]:
    """Id, speaker, emotion and sentence of every clip of a split.

    Raises:
        ArtifactError: the split has no clips.
    """
    rows = [row for uri in shards.shard_uris(corpus, split) for row in shards.read_shard(uri, LABELS)]
    if not rows:
        raise storage.ArtifactError(
            f"the corpus {corpus} has no clips in its split {split!r}: "
            "ingest more clips, or give that split a larger share"
        )
    return rows


def read_sample(corpus: str, split: str, count: int, seed: int) -> list[Clip]:
    """Decodes at most ``count`` clips of a split, in the order of the corpus.

    Raises:
        ArtifactError: the split has no clips.
    """
    return [shards.decode_clip(row) for row in _read_chosen(corpus, split, count, seed, None)]


def read_speech_sample(corpus: str, split: str, count: int, seed: int) -> list[SpeechClip]:
    """The clips of ``read_sample`` without their frames."""
    rows = _read_chosen(corpus, split, count, seed, [*LABELS, "speech"])
    return [
        SpeechClip(row["id"], row["speaker"], row["emotion"], row["sentence"], shards.decode_speech(row["speech"]))
        for row in rows
    ]


def choose_balanced(speakers: Sequence[str], emotions: Sequence[str], count: int, seed: int) -> list[int]:
    """Chooses at most ``count`` clips, evenly over speakers and emotions.

    Each choice takes a clip whose speaker and emotion were chosen least often so far; ties are broken at random.

    Args:
        speakers: speaker of each clip.
        emotions: emotion of each clip.
        count: number of clips to choose.
        seed: seed of the random order.

    Returns:
        Indices, sorted.
    """
    _, speaker = np.unique(speakers, return_inverse=True)
    _, emotion = np.unique(emotions, return_inverse=True)
    speaker_cost, emotion_cost = np.zeros(speaker.max() + 1), np.zeros(emotion.max() + 1)
    tie_break = np.random.default_rng(seed).random(len(speaker))
    chosen: list[int] = []
    for _ in range(min(count, len(speaker))):
        best = int(np.argmin(speaker_cost[speaker] + emotion_cost[emotion] + tie_break))
        chosen.append(best)
        tie_break[best] = np.inf
        # A label costs as much as there are labels of its kind, so that speakers and emotions have equal weight.
        speaker_cost[speaker[best]] += len(speaker_cost)
        emotion_cost[emotion[best]] += len(emotion_cost)
    return sorted(chosen)


def _read_chosen(corpus: str, split: str, count: int, seed: int, columns: list[str] | None) -> list[dict[str, Any]]:
    """Rows of the chosen clips; shards without a chosen clip are not read beyond their ids."""
    labels = read_labels(corpus, split)
    chosen = choose_balanced([r["speaker"] for r in labels], [r["emotion"] for r in labels], count, seed)
    ids = {labels[i]["id"] for i in chosen}
    rows: list[dict[str, Any]] = []
    for uri in shards.shard_uris(corpus, split):
        if ids.intersection(row["id"] for row in shards.read_shard(uri, ["id"])):
            rows += [row for row in shards.read_shard(uri, columns) if row["id"] in ids]
    return rows
