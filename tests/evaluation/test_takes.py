from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.evaluation.takes import CorpusTakes, mean_of_frames, stretched
from s2v_ray.media.timing import SAMPLES_PER_FRAME
from tests.helpers.evaluated import make_clip, make_clips, write_corpus


def test_takes_are_other_training_clips_of_the_speaker(corpus: str) -> None:
    clip = make_clip(100, 0, 0)
    found = CorpusTakes(corpus, 0).of(clip, 4)
    assert len({take.id for take in found}) == 4
    train = {f"c{n}" for n in range(24)}
    assert all(take.speaker == clip.speaker and take.id in train for take in found)
    assert [take.id for take in CorpusTakes(corpus, 0).of(clip, 4)] == [take.id for take in found]
    orders = {tuple(take.id for take in CorpusTakes(corpus, seed).of(clip, 4)) for seed in range(4)}
    assert len(orders) > 1, "the seed decides"


def test_another_split_is_used_for_want_of_training_clips(tmp_path: Path) -> None:
    uri = write_corpus(tmp_path, [make_clip(0, 0, 0)], [make_clip(100, 1, 0), make_clip(101, 1, 1)])
    assert [take.id for take in CorpusTakes(uri, 0).of(make_clip(100, 1, 0), 3)] == ["c101"]
    assert CorpusTakes(uri, 0).of(make_clip(0, 0, 0), 3) == [], "a clip is no take of itself"
    assert CorpusTakes(uri, 0).mean_frame(make_clip(0, 0, 0)) is None


def test_takes_that_are_long_enough_come_first(tmp_path: Path) -> None:
    clips = [make_clip(n, 0, 0) for n in range(12)]
    short = [
        replace(
            clip,
            frames=clip.frames[:30],
            speech=clip.speech[: 30 * SAMPLES_PER_FRAME],
            landmarks=clip.landmarks[:30],
            mouth_opening=clip.mouth_opening[:30],
        )
        for clip in clips[:6]
    ]
    takes = CorpusTakes(write_corpus(tmp_path, [*short, *clips[6:]], [make_clip(100, 0, 0)]), 0)
    preferred = [take for take in takes.of(make_clip(100, 0, 0), 11) if takes.is_take(take.id)]
    lengths = [len(take.frames) for take in preferred]
    assert lengths == sorted(lengths, reverse=True)
    assert set(lengths) == {30, 40}


def test_references_are_no_takes(corpus: str) -> None:
    takes = CorpusTakes(corpus, 0)
    given = {take.id for n in (100, 102, 104) for take in takes.of(make_clip(n, 0, 0), 12)}
    references = {clip.id for clip in CorpusTakes(corpus, 0).references("ann", 100)}
    assert references and all(not takes.is_take(clip_id) for clip_id in references)
    assert given >= {f"c{n}" for n in range(0, 24, 2)}, "all clips of the speaker were asked for"
    assert takes.references("ann", 100) == [], "none is left that was not given"
    assert len(CorpusTakes(corpus, 0).references("ann", 2)) == 2
    assert CorpusTakes(corpus, 0).references("nobody", 2) == []


def test_the_mean_frame_is_that_of_the_other_takes(tmp_path: Path) -> None:
    clips = make_clips(6)
    takes = CorpusTakes(write_corpus(tmp_path, clips, [make_clip(100, 0, 0)]), 0)
    own = [clip.frames for clip in clips if clip.speaker == "ann"]
    mean = takes.mean_frame(make_clip(100, 0, 0))
    assert mean is not None
    assert np.abs(mean.astype(int) - mean_of_frames(own)).mean() < 1.5, "the corpus holds JPEG"


def test_mean_of_frames_by_hand() -> None:
    dark, light = np.zeros((4, 2, 2, 3), np.uint8), np.full((9, 2, 2, 3), 101, np.uint8)
    assert (mean_of_frames([dark, light]) == 50).all(), "takes count equally, however long they are"


def test_a_short_take_is_played_forth_and_back() -> None:
    frames = np.arange(3)
    assert stretched(frames, 8).tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert stretched(frames, 2).tolist() == [0, 1]
    assert stretched(frames[:1], 3).tolist() == [0, 0, 0]


def test_a_missing_corpus_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="no corpus"):
        CorpusTakes(str(tmp_path), 0)
