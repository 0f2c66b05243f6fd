"""Labelled stills: halves for teachers and judges, and augmentation."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from s2v_ray.training.stills import augment_faces, read_stills
from tests.helpers.face_corpus import EMOTIONS, FRAMES, SIZE, SPEAKERS, make_face_corpus


def test_each_half_and_val_has_every_speaker_with_every_emotion(tmp_path: Path) -> None:
    stills = read_stills(make_face_corpus(tmp_path))
    cells = {(s, e, h) for s, e, h in zip(stills.speaker, stills.emotion, stills.half, strict=True)}
    assert {h for *_, h in cells} == {-1, 0, 1}
    assert len(cells) == 3 * len(SPEAKERS) * len(EMOTIONS)  # each half, and val, has every speaker with every emotion


def test_stills_are_spread_over_a_clip_and_know_their_clip(tmp_path: Path) -> None:
    stills = read_stills(make_face_corpus(tmp_path))
    clips = len(SPEAKERS) * len(EMOTIONS) * 6
    assert stills.frames.shape == (clips * FRAMES, SIZE, SIZE, 3) and len(stills.half) == clips
    assert stills.clip.bincount().tolist() == [FRAMES] * clips
    assert bool(stills.opening.isfinite().all())


def test_augmentation_keeps_the_picture() -> None:
    torch.manual_seed(0)
    faces = torch.rand(64, 3, 32, 32) * 2 - 1
    faces = F.interpolate(F.avg_pool2d(faces, 8), size=(32, 32), mode="bilinear")
    changed = augment_faces(faces)
    assert changed.shape == faces.shape
    correlation = torch.stack(
        [torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] for a, b in zip(faces, changed, strict=True)]
    )
    assert 0.5 < correlation.mean() < 0.999
