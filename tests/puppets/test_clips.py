from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig
from s2v_ray.puppets.clips import SAMPLES_PER_FRAME, ClipSpec, render, write_clip
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.traits import make_puppet

SMALL = PuppetsConfig(speakers=2, emotions=("neutral", "angry"), sentences=1, size=64, max_seconds=1.2)
SPEC = ClipSpec(5, 1, "angry", 3, "My brother found a purple fish", SMALL)


def test_speech_frames_and_ground_truth_have_one_length() -> None:
    speech, frames, truth = render(make_puppet(5, 1, 2), SPEC)
    drawn = list(frames)
    assert len(speech) == len(drawn) * SAMPLES_PER_FRAME
    assert len(truth["landmarks"]) == len(truth["mouth_opening"]) == len(drawn)
    assert drawn[0].shape == (64, 64, 3) and drawn[0].dtype == np.uint8
    assert (truth["speaker"], truth["emotion"], truth["sentence"]) == ("puppet001", "angry", SPEC.sentence)


def test_a_clip_depends_on_its_spec_only() -> None:
    puppet = make_puppet(5, 1, 2)
    speech, frames, truth = render(puppet, SPEC)
    again, other_frames, other_truth = render(puppet, SPEC)
    assert np.array_equal(speech, again)
    assert truth == other_truth
    assert np.array_equal(next(frames), next(other_frames))


def test_a_sentence_ends_with_the_last_word_that_fits() -> None:
    def spoken_seconds(max_seconds: float) -> float:
        config = SMALL.model_copy(update={"max_seconds": max_seconds})
        return len(render(make_puppet(5, 1, 2), ClipSpec(5, 1, "angry", 3, SPEC.sentence, config))[0]) / RATE

    complete, cut, one_word = spoken_seconds(10.0), spoken_seconds(1.2), spoken_seconds(0.1)
    assert complete > 1.3
    assert 0.8 < cut <= 1.2 + 1 / 25
    assert 0.1 < one_word < cut


def test_video_and_ground_truth_are_written(tmp_path: Path) -> None:
    clip = write_clip(SPEC, str(tmp_path))
    assert clip.path == "puppet001/angry-03.mp4"
    assert clip.sha256 == storage.sha256((tmp_path / clip.path).read_bytes())
    truth = json.loads((tmp_path / "puppet001/angry-03.json").read_text())
    assert len(truth["mouth_opening"]) == clip.frames
