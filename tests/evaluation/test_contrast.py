from __future__ import annotations

from s2v_ray.evaluation.contrast import CONTRAST_CLIPS, contrast_emotions
from s2v_ray.evaluation.examples import ExampleWriter
from tests.helpers.evaluated import EMOTIONS, SPEAKERS, ExactPredictor, make_clips


def test_one_clip_of_each_speaker_is_compared() -> None:
    found = contrast_emotions(make_clips(), ExactPredictor(), 0, ExampleWriter())
    assert found is not None
    assert found["clips"] == len(SPEAKERS) < CONTRAST_CLIPS
    assert found["emotions"] == list(EMOTIONS)
    assert found["share"] == found["worst_share"] == 1.0
    assert found["noise"] == 0.0


def test_equal_frames_have_no_contrast() -> None:
    found = contrast_emotions(make_clips(), ExactPredictor(always=0), 0, ExampleWriter())
    assert found is not None
    assert found["share"] == found["difference"] == 0.0


def test_a_bundle_with_one_emotion_has_no_contrast() -> None:
    predictor = ExactPredictor()
    predictor.emotions = ("happy",)
    assert contrast_emotions(make_clips(), predictor, 0, ExampleWriter()) is None
