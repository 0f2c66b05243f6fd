"""A source of short videos with ground truth, some of which cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from s2v_ray import storage
from s2v_ray.media import face, video

SPEAKERS, SENTENCES = ("anna", "bob"), ("one", "two", "three", "four", "five")


def make_source(root: Path) -> str:
    """Ten usable videos, two that are rejected (no sound, unreadable), and a duplicate of bob/one.mp4."""
    rng = np.random.default_rng(0)
    for speaker in SPEAKERS:
        for sentence in SENTENCES:
            frames = write_video(root, speaker, sentence, rng)
    video.write_mp4(root / "bob/mute.mp4", frames, None)
    write_ground_truth(root / "bob/mute.json", "bob", "mute")
    (root / "anna/truncated.mp4").write_bytes((root / "anna/one.mp4").read_bytes()[:600])
    write_ground_truth(root / "anna/truncated.json", "anna", "truncated")
    (root / "bob/zcopy.mp4").write_bytes((root / "bob/one.mp4").read_bytes())
    write_ground_truth(root / "bob/zcopy.json", "bob", "one")
    storage.write_manifest(str(root), "puppets", 1, digest="abc")
    return str(root)


def write_video(root: Path, speaker: str, sentence: str, rng: np.random.Generator) -> list[np.ndarray]:
    """Writes a video of one second with its ground truth; returns the frames."""
    frames = [np.full((64, 64, 3), rng.integers(0, 255), np.uint8)] * 25
    speech = rng.normal(0, 0.1, 16_000).astype(np.float32).clip(-1, 1)
    video.write_mp4(root / speaker / f"{sentence}.mp4", frames, speech)
    write_ground_truth(root / speaker / f"{sentence}.json", speaker, sentence)
    return frames


def write_ground_truth(path: Path, speaker: str, sentence: str) -> None:
    truth = {
        "speaker": speaker,
        "emotion": "happy",
        "sentence": sentence,
        "landmarks": [(face.TEMPLATE * 56 + 4).tolist()] * 25,
        "mouth_opening": [0.5] * 25,
    }
    path.write_text(json.dumps(truth))


def content(folder: str) -> dict[str, bytes]:
    """All files under ``folder``: path to bytes."""
    return {uri.removeprefix(folder): storage.read_bytes(uri) for uri in storage.list_files(folder)}
