from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.evaluation import comparisons
from s2v_ray.evaluation.comparisons import COMPARED, TOLD_APART, diversity_of, kernel_distances, read_real_codes
from s2v_ray.evaluation.measuring import Measurements
from s2v_ray.evaluation.rows import OTHER_TAKE, REAL, REFERENCE, REFERENCE_OTHER, ROWS, SPEECH, SPEECH_TAKE
from s2v_ray.metrics.clip_metrics import METRICS
from s2v_ray.metrics.two_sample import MIN_CLIPS
from s2v_ray.models.judges import Judges
from tests.helpers.evaluated import JUDGES, RECIPE, FixedTakes, make_clip


def values(*numbers: float) -> dict[int, float]:
    return dict(enumerate(numbers))


def test_compared_rows_and_metrics_exist() -> None:
    assert {row for pair in (*COMPARED, *TOLD_APART) for row in pair} <= ROWS.keys()
    assert set(comparisons.DIFFERENCES) <= METRICS.keys()
    assert all(METRICS[name].metric.better in ("higher", "lower") for name in comparisons.DIFFERENCES)


def test_differences_are_paired_and_have_their_margins() -> None:
    measured = Measurements(
        ["s1"] * 3,
        {
            SPEECH_TAKE: {"psnr": values(26.0, 27.0, 28.0), "landmark_distance": values(4.0, 4.0, 4.0)},
            REFERENCE: {"psnr": values(26.3, 27.3, 28.3), "landmark_distance": values(3.0, 4.0, 5.0)},
            SPEECH: {"psnr": values(20.0, 21.0, 22.0)},
            REFERENCE_OTHER: {"psnr": {1: 20.0}},
        },
    )
    found = {(d["row"], d["base"], d["metric"]): d for d in comparisons.paired_differences(measured, RECIPE)}
    assert found.keys() == {
        (SPEECH_TAKE, REFERENCE, "psnr"),
        (SPEECH_TAKE, REFERENCE, "landmark_distance"),
        (SPEECH, REFERENCE_OTHER, "psnr"),
    }
    psnr = found[SPEECH_TAKE, REFERENCE, "psnr"]
    assert (psnr["mean"], psnr["low"]) == (pytest.approx(-0.3), pytest.approx(-0.3))
    assert (psnr["margin"], psnr["not_inferior"], psnr["resampled"]) == (0.5, True, "clips")
    landmarks = found[SPEECH_TAKE, REFERENCE, "landmark_distance"]
    assert landmarks["mean"] == pytest.approx(0.0)
    assert landmarks["margin"] == pytest.approx(0.05 * 4.0), "a share of the baseline's mean"
    assert landmarks["not_inferior"] is False, "the clips differ by more than the margin"
    other = found[SPEECH, REFERENCE_OTHER, "psnr"]
    assert (other["mean"], other["clips"]) == (1.0, 1), "a clip without the row has no pair"


def test_real_codes_are_those_of_training_clips_of_the_evaluated_speakers() -> None:
    clips = [make_clip(n, 0, 0) for n in range(3)] + [make_clip(3, 1, 0)]
    takes = FixedTakes([], [make_clip(n, n % 2, 0) for n in range(10, 40)])
    codes = read_real_codes(takes, clips, JUDGES)
    assert codes.keys() == {"identity", "emotion"}
    assert len(codes["identity"]["ann"]) == 9, "three for each clip"
    assert codes["identity"]["bob"] == [], "one clip is too few for a distance"
    assert codes["identity"]["ann"][0].shape == (12, 6)
    assert read_real_codes(takes, clips, Judges()) == {}


def test_kernel_distances_are_given_in_thousandths() -> None:
    rng = np.random.default_rng(0)

    def codes(shift: float, count: int) -> list[np.ndarray]:
        return [rng.normal(shift, 1.0, (4, 3)) for _ in range(count)]

    shown = {REAL: codes(0.0, 20), SPEECH: codes(2.0, 20), OTHER_TAKE: codes(0.0, 2)}
    measured = Measurements(["s1"] * 20, codes={row: {"identity": dict(enumerate(c))} for row, c in shown.items()})
    found = kernel_distances(measured, {"identity": {"s1": codes(0.0, 20)}})
    assert found.keys() == {REAL, SPEECH}, "two clips are too few"
    assert found[SPEECH].keys() == {"kid_identity"}
    assert found[SPEECH]["kid_identity"]["mean"] > 1000 > abs(found[REAL]["kid_identity"]["mean"])
    assert kernel_distances(measured, {}) == {}


def test_kernel_distances_name_their_network() -> None:
    described = comparisons.describe_kernel_distances({"emotion": "mini-XCEPTION", "sync": "x"})
    assert described.keys() == {"kid_emotion"}
    assert "mini-XCEPTION" in described["kid_emotion"]["about"]


def test_two_samples_are_of_the_clips_that_have_both_rows() -> None:
    rng = np.random.default_rng(0)
    count = MIN_CLIPS + 2
    real = {i: rng.normal(0.0, 1.0, (4, 3)) for i in range(count)}
    other = {i: rng.normal(9.0, 1.0, (4, 3)) for i in range(2, count)}
    measured = Measurements(["s1"] * count, features={REAL: real, OTHER_TAKE: other})
    (found,) = comparisons.two_sample_tests(measured, RECIPE)
    assert (found["first"], found["second"], found["clips"]) == (OTHER_TAKE, REAL, MIN_CLIPS)
    assert found["accuracy"] == pytest.approx(1.0)


def test_diversity_is_a_ratio_of_means() -> None:
    found = diversity_of([1.0, 3.0], [2.0, 2.0], RECIPE)
    assert found is not None
    assert (found["mean"], found["clips"]) == (1.0, 2)
    assert (found["low"], found["high"]) == (0.5, 1.5)
    assert diversity_of([], [], RECIPE) is None
    assert diversity_of([1.0], [0.0], RECIPE) is None
