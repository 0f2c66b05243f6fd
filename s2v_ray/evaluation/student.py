"""What the student hears: emotion and identity from speech alone, and what leaks from one code into the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.config import Recipe
from s2v_ray.evaluation.sample import Spoken, read_labels, read_spoken
from s2v_ray.metrics import bootstrap_mean
from s2v_ray.metrics.identity import centroids, nearest_centroid
from s2v_ray.metrics.probe import Probe, linear_probe

MAX_HEARD = 600
"""Clips heard at most in each of the held-out split and the training split."""


class Codes(Protocol):
    """What ``Predictor.encode_speech`` gives."""

    @property
    def identity(self) -> Tensor: ...
    @property
    def emotion(self) -> Tensor: ...
    @property
    def emotion_logits(self) -> Tensor: ...


class Hearing(Protocol):
    """What is asked of a predictor here."""

    @property
    def emotions(self) -> tuple[str, ...]: ...
    def encode_speech(self, speech: np.ndarray) -> Codes: ...


def student_figures(corpus: str, predictor: Hearing, recipe: Recipe) -> dict[str, Any]:
    """Accuracies from speech alone on the held-out split, and leaks over held-out and training clips.

    Returns:
        ``emotion_accuracy``: interval of the share of held-out clips whose largest logit is the true emotion.
        ``identity_accuracy``: interval of the share whose heard identity lies nearest (cosine) to the centroid of the
        teacher's codes of its own speaker's training clips, among all speakers; ``speakers``: how many those are.
        ``leak_emotion``: linear probe for emotion on the identity code; ``leak_identity``: for identity on the emotion code
        (accuracy, chance, classes, clips).
        Each None where the corpus cannot tell; ``notes`` says why.
    """
    held_out = read_spoken(corpus, recipe.evaluate.split, MAX_HEARD, recipe.seed)
    train = read_spoken(corpus, "train", MAX_HEARD, recipe.seed)
    heard = [predictor.encode_speech(clip.speech) for clip in held_out + train]
    identity = np.stack([h.identity.float().cpu().numpy() for h in heard])
    emotion = np.stack([h.emotion.float().cpu().numpy() for h in heard])
    logits = np.stack([h.emotion_logits.float().cpu().numpy() for h in heard[: len(held_out)]])
    notes: list[str] = []
    figures: dict[str, Any] = {
        "emotion_accuracy": None,
        "identity_accuracy": None,
        "speakers": 0,
        "clips": len(held_out),
    }

    labels = predictor.emotions
    known = {clip.emotion for clip in held_out} & set(labels)
    if len(known) > 1:
        right = [
            float(labels[i] == clip.emotion) if clip.emotion in labels else np.nan
            for i, clip in zip(logits.argmax(axis=1), held_out, strict=True)
        ]
        figures["emotion_accuracy"] = asdict(bootstrap_mean(right, recipe.evaluate.bootstrap, recipe.seed))
    else:
        notes.append(
            "emotion accuracy does not apply: the held-out clips are not labelled with two or more of the teacher's emotions"
        )

    found = _teacher_centroids(corpus)
    if found is None:
        notes.append(
            "identity accuracy does not apply: the corpus has one speaker, or no stored codes of the identity teacher"
        )
    else:
        centres, names = found
        nearest = nearest_centroid(identity[: len(held_out)], centres, names)
        own = [
            float(n == clip.speaker) if clip.speaker in names else np.nan
            for n, clip in zip(nearest, held_out, strict=True)
        ]
        figures |= {
            "identity_accuracy": asdict(bootstrap_mean(own, recipe.evaluate.bootstrap, recipe.seed)),
            "speakers": len(names),
        }

    everyone = held_out + train
    figures["leak_emotion"] = _leak(identity, everyone, [c.emotion for c in everyone], "emotion", notes)
    figures["leak_identity"] = _leak(emotion, everyone, [c.speaker for c in everyone], "identity", notes)
    return figures | {"notes": notes}


def _leak(
    codes: np.ndarray, clips: Sequence[Spoken], labels: Sequence[str], what: str, notes: list[str]
) -> dict[str, Any] | None:
    """Probe over the clips that have a label, split by sentence (by clip where the sentence is not known)."""
    kept = [i for i, label in enumerate(labels) if label]
    probe: Probe | None = None
    if kept:
        probe = linear_probe(codes[kept], [labels[i] for i in kept], [clips[i].sentence or clips[i].id for i in kept])
    if probe is None:
        notes.append(f"the leak of {what} does not apply: the corpus has fewer than two labels of it, or one sentence")
        return None
    return asdict(probe)


def _teacher_centroids(corpus: str) -> tuple[np.ndarray, list[str]] | None:
    """Centroids of the identity teacher's stored codes of the training clips, by speaker; None with fewer than two speakers."""
    speakers = {row["id"]: row["speaker"] for row in read_labels(corpus, "train")}
    stored = [shards.outputs_uri(corpus, "identity", uri) for uri in shards.shard_uris(corpus, "train")]
    if len(set(speakers.values())) < 2 or not all(storage.exists(uri) for uri in stored):
        return None
    rows = [row for uri in stored for row in shards.read_shard(uri) if row["id"] in speakers]
    return centroids(np.stack([shards.decode_output(row) for row in rows]), [speakers[row["id"]] for row in rows])
