"""Figures of the student: emotion and identity from speech alone, and the leaks between the two codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.config import Recipe
from s2v_ray.evaluation.results import IntervalResult, ProbeResult, StudentResult, mean_interval
from s2v_ray.evaluation.rows import SpeechEncoder
from s2v_ray.evaluation.sample import SpeechClip, read_labels, read_speech_sample
from s2v_ray.metrics.identity import centroids, nearest_centroid
from s2v_ray.metrics.probe import linear_probe

MAX_CLIPS = 600
"""Largest number of clips that are encoded of each of the held-out split and the training split."""


def student_figures(corpus: str, predictor: SpeechEncoder, recipe: Recipe) -> StudentResult:
    """Measures accuracies on the held-out split, and leaks on held-out and training clips.

    Raises:
        ArtifactError: a split is empty.
    """
    held_out = read_speech_sample(corpus, recipe.evaluate.split, MAX_CLIPS, recipe.seed)
    clips = held_out + read_speech_sample(corpus, "train", MAX_CLIPS, recipe.seed)
    codes = [predictor.encode_speech(clip.speech) for clip in clips]
    identity = np.stack([code.identity.float().cpu().numpy() for code in codes])
    emotion = np.stack([code.emotion.float().cpu().numpy() for code in codes])
    logits = np.stack([code.emotion_logits.float().cpu().numpy() for code in codes[: len(held_out)]])
    notes: list[str] = []
    emotion_accuracy = _emotion_accuracy(logits, predictor.emotions, held_out, recipe)
    if emotion_accuracy is None:
        notes.append(
            "emotion accuracy does not apply: "
            "the held-out clips are not labelled with two or more of the teacher's emotions"
        )
    teacher = _teacher_centroids(corpus)
    if teacher is None:
        notes.append(
            "identity accuracy does not apply: the corpus has one speaker, or no stored codes of the identity teacher"
        )
    leak_emotion = _leak(identity, clips, [clip.emotion for clip in clips])
    leak_identity = _leak(emotion, clips, [clip.speaker for clip in clips])
    for what, leak in (("emotion", leak_emotion), ("identity", leak_identity)):
        if leak is None:
            notes.append(
                f"the leak of {what} does not apply: the corpus has fewer than two labels of it, or one sentence"
            )
    return StudentResult(
        emotion_accuracy=emotion_accuracy,
        identity_accuracy=_identity_accuracy(identity[: len(held_out)], *teacher, held_out, recipe)
        if teacher
        else None,
        speakers=len(teacher[1]) if teacher else 0,
        clips=len(held_out),
        leak_emotion=leak_emotion,
        leak_identity=leak_identity,
        notes=notes,
    )


def _emotion_accuracy(
    logits: np.ndarray, labels: tuple[str, ...], clips: Sequence[SpeechClip], recipe: Recipe
) -> IntervalResult | None:
    """Share of the clips whose largest logit is their label, or None if there are fewer than two known labels."""
    if len({clip.emotion for clip in clips} & set(labels)) < 2:
        return None
    correct = [
        float(labels[i] == clip.emotion) if clip.emotion in labels else np.nan
        for i, clip in zip(logits.argmax(axis=1), clips, strict=True)
    ]
    return mean_interval(correct, recipe)


def _identity_accuracy(
    codes: np.ndarray, centres: np.ndarray, names: Sequence[str], clips: Sequence[SpeechClip], recipe: Recipe
) -> IntervalResult:
    """Share of the clips whose code is nearest to the centroid of their own speaker."""
    correct = [
        float(nearest == clip.speaker) if clip.speaker in names else np.nan
        for nearest, clip in zip(nearest_centroid(codes, centres, names), clips, strict=True)
    ]
    return mean_interval(correct, recipe)


def _leak(codes: np.ndarray, clips: Sequence[SpeechClip], labels: Sequence[str]) -> ProbeResult | None:
    """Probe on the clips that have a label, split by sentence, or by clip if the sentence is not known."""
    kept = [i for i, label in enumerate(labels) if label]
    if not kept:
        return None
    groups = [clips[i].sentence or clips[i].id for i in kept]
    probe = linear_probe(codes[kept], [labels[i] for i in kept], groups)
    if probe is None:
        return None
    return ProbeResult(accuracy=probe.accuracy, chance=probe.chance, classes=probe.classes, clips=probe.clips)


def _teacher_centroids(corpus: str) -> tuple[np.ndarray, list[str]] | None:
    """Centroids of the teacher's stored codes of training clips, with their speakers; None for fewer than two."""
    speakers = {row["id"]: row["speaker"] for row in read_labels(corpus, "train")}
    stored = [shards.outputs_uri(corpus, "identity", uri) for uri in shards.shard_uris(corpus, "train")]
    if len(set(speakers.values())) < 2 or not all(storage.exists(uri) for uri in stored):
        return None
    rows = [row for uri in stored for row in shards.read_shard(uri) if row["id"] in speakers]
    return centroids(np.stack([shards.decode_output(row) for row in rows]), [speakers[row["id"]] for row in rows])
