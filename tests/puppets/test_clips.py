from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from s2v_ray import storage
from s2v_ray.config import PuppetsConfig
from s2v_ray.puppets.clips import SAMPLES_PER_FRAME, ClipSpec, TakeSpec, WrittenClip, cut, render, write_clip
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.recordings import Recording, SetAside, list_recordings
from s2v_ray.puppets.voice import Phoneme, Speech
from tests.helpers.recorded import record

SMALL = PuppetsConfig(speakers=2, emotions=("neutral", "angry"), sentences=1, size=64, max_seconds=1.2)
SPEC = ClipSpec(5, 1, "angry", 3, "My brother found a purple fish", SMALL)


def test_speech_frames_and_ground_truth_have_one_length() -> None:
    speech, frames, truth = render(SPEC.scene())
    drawn = list(frames)
    assert len(speech) == len(drawn) * SAMPLES_PER_FRAME
    assert len(truth["landmarks"]) == len(truth["mouth_opening"]) == len(drawn)
    assert drawn[0].shape == (64, 64, 3) and drawn[0].dtype == np.uint8
    assert (truth["speaker"], truth["emotion"], truth["sentence"]) == ("puppet001", "angry", SPEC.sentence)


def test_a_clip_depends_on_its_spec_only() -> None:
    speech, frames, truth = render(SPEC.scene())
    again, other_frames, other_truth = render(SPEC.scene())
    assert np.array_equal(speech, again)
    assert truth == other_truth
    assert np.array_equal(next(frames), next(other_frames))


def test_a_sentence_ends_with_the_last_word_that_fits() -> None:
    def spoken_seconds(max_seconds: float) -> float:
        config = SMALL.model_copy(update={"max_seconds": max_seconds})
        return len(render(ClipSpec(5, 1, "angry", 3, SPEC.sentence, config).scene())[0]) / RATE

    complete, cut, one_word = spoken_seconds(10.0), spoken_seconds(1.2), spoken_seconds(0.1)
    assert complete > 1.3
    assert 0.8 < cut <= 1.2 + 1 / 25
    assert 0.1 < one_word < cut


def test_video_and_ground_truth_are_written(tmp_path: Path) -> None:
    clip = write_clip(SPEC, str(tmp_path))
    assert isinstance(clip, WrittenClip)
    assert clip.path == "puppet001/angry-03.mp4"
    assert clip.sha256 == storage.sha256((tmp_path / clip.path).read_bytes())
    truth = json.loads((tmp_path / "puppet001/angry-03.json").read_text())
    assert len(truth["mouth_opening"]) == clip.frames


def recorded(folder: Path, actor: int, emotion: str, intensity: int = 1) -> Recording:
    record(folder, actor, emotion, intensity=intensity)
    (found,) = list_recordings(str(folder), (emotion,)).used
    return found


def test_a_recording_is_drawn_as_its_actor(tmp_path: Path) -> None:
    made = recorded(tmp_path, 7, "disgusted")
    scene = TakeSpec(5, made, SMALL.model_copy(update={"max_seconds": 9.0})).scene()
    speech, frames, truth = render(scene)
    drawn = list(frames)
    assert len(speech) == 640 * len(drawn) == 640 * len(truth["landmarks"])
    assert (truth["speaker"], truth["emotion"]) == ("actor07", "disgusted")
    assert truth["sentence"] == "kids are talking by the door"
    opening = np.array(truth["mouth_opening"])
    silent = np.abs(speech.reshape(len(drawn), 640)).max(1) < 1e-4
    assert silent.sum() > 4 and np.median(opening[silent]) < 0.05
    assert opening.max() > 0.4


def test_strong_emotions_are_drawn_stronger_and_faces_belong_to_the_actor(tmp_path: Path) -> None:
    scenes = [
        TakeSpec(5, recorded(tmp_path / str(i), actor, "happy", intensity), SMALL).scene()
        for i, (actor, intensity) in enumerate([(2, 1), (2, 2), (4, 1)])
    ]
    assert scenes[0].strength < scenes[1].strength
    assert scenes[0].face == scenes[1].face != scenes[2].face


def test_a_long_recording_is_cut_at_the_end_of_a_phoneme() -> None:
    phonemes = (Phoneme("a", 0.1, 0.5), Phoneme("b", 0.5, 0.9), Phoneme("c", 0.9, 1.4))
    speech = Speech(np.zeros(24_000, np.float32), phonemes, 16_000)
    assert cut(speech, 2.0) is speech
    shorter = cut(speech, 1.0)
    assert shorter.phonemes == phonemes[:2] and len(shorter.samples) == 14_400


def test_an_unreadable_recording_is_set_aside(tmp_path: Path) -> None:
    made = recorded(tmp_path / "in", 1, "sad")
    Path(made.uri).write_bytes(b"damaged")
    found = write_clip(TakeSpec(5, made, SMALL), str(tmp_path / "out"))
    assert found == SetAside(made.name, "unreadable", "it cannot be read as audio")
    assert not (tmp_path / "out").exists()
