from __future__ import annotations

from s2v_ray.evaluation.bars import BARS, compare_with_bars
from s2v_ray.evaluation.evaluate import evaluate_clips
from s2v_ray.evaluation.results import ClipResults, StudentResult
from s2v_ray.evaluation.rows import RowGenerator
from s2v_ray.evaluation.student import student_figures
from tests.helpers.evaluated import JUDGES, RECIPE, ExactPredictor, identity, make_clips

NOTHING = StudentResult(
    emotion_accuracy=None,
    identity_accuracy=None,
    speakers=0,
    clips=0,
    leak_emotion=None,
    leak_identity=None,
    notes=[],
)


def measured(late: int, reference: ExactPredictor | None) -> ClipResults:
    generator = RowGenerator(ExactPredictor(late=late), reference, identity, RECIPE.seed)
    return evaluate_clips(make_clips(), generator, JUDGES, RECIPE)[0]


def test_bars_are_met_or_missed(corpus: str) -> None:
    student = student_figures(corpus, ExactPredictor(), RECIPE)
    met = {bar["key"]: bar["met"] for bar in compare_with_bars(measured(1, ExactPredictor()), student)}
    assert met.keys() == {bar.key for bar in BARS}
    assert met["student_emotion"]
    assert met["emotion_contrast"]
    assert met["emotion_shown"]
    assert met["mouth_lag"] is False
    assert met["mouth_correlation"] is False


def test_figures_that_do_not_apply_are_neither_met_nor_missed() -> None:
    found = {bar["key"]: bar for bar in compare_with_bars(measured(0, None), NOTHING)}
    for key in ("student_emotion", "student_identity", "leak_emotion", "leak_identity"):
        assert found[key]["value"] is None and found[key]["met"] is None
    assert found["ssim_ratio"]["met"] is None, "another row is shown for the reference baseline"
    assert found["mouth_lag"]["met"] is True
    assert found["mouth_error"]["bar"] > found["mouth_error"]["value"]
