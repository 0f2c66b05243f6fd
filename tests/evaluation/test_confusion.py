from __future__ import annotations

from s2v_ray.evaluation.confusion import FORCED_CLIPS, SHOWN_CLIPS, force_emotions, take_turns
from s2v_ray.evaluation.examples import ExampleWriter
from tests.helpers.evaluated import EMOTIONS, EmotionJudge, ExactPredictor, make_clip, make_clips


class TwoEmotions(EmotionJudge):
    labels = ("happy", "sad", "calm")


def test_each_asked_emotion_is_seen() -> None:
    found = force_emotions(make_clips(4), ExactPredictor(), EmotionJudge(), 0, ExampleWriter())
    assert found is not None
    assert found["asked"] == found["seen"] == list(EMOTIONS)
    assert found["counts"] == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
    assert (found["share"], found["clips"], found["unknown"]) == (1.0, 4, [])


def test_one_emotion_for_all_is_right_by_chance() -> None:
    found = force_emotions(make_clips(4), ExactPredictor(always=1), EmotionJudge(), 0, ExampleWriter())
    assert found is not None
    assert found["counts"] == [[0, 4, 0]] * 3
    assert found["share"] == found["chance"] == 1 / 3


def test_emotions_that_the_judge_does_not_know_are_left_out() -> None:
    found = force_emotions(make_clips(3), ExactPredictor(), TwoEmotions(), 0, ExampleWriter())
    assert found is not None
    assert (found["asked"], found["unknown"]) == (["happy", "sad"], ["angry"])
    assert found["counts"] == [[3, 0, 0], [0, 3, 0]]


def test_without_a_judge_examples_are_made_and_no_figure() -> None:
    writer = ExampleWriter()
    assert force_emotions(make_clips(6), ExactPredictor(), None, 0, writer) is None
    assert len(writer.emotions) == SHOWN_CLIPS


def test_a_bundle_with_one_emotion_has_no_confusion() -> None:
    predictor = ExactPredictor()
    predictor.emotions = ("happy",)
    assert force_emotions(make_clips(), predictor, EmotionJudge(), 0, ExampleWriter()) is None


def test_speakers_take_turns() -> None:
    clips = [make_clip(n, int(n > 3), 0) for n in range(6)]
    assert [clip.id for clip in take_turns(clips, 3)] == ["c0", "c4", "c1"]
    assert len(take_turns(clips, FORCED_CLIPS)) == 6
