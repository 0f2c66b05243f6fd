from __future__ import annotations

from typing import Any

import pytest

from s2v_ray.evaluation.bars import PROTOCOLS, compare_with_bars
from s2v_ray.evaluation.results import ClipResults, DifferenceResult, IntervalResult, RowResult, StudentResult
from s2v_ray.evaluation.rows import OTHER_TAKE, REAL, REFERENCE, REFERENCE_OTHER, SPEECH, SPEECH_TAKE, STILL


def interval(mean: float) -> IntervalResult:
    return IntervalResult(mean=mean, low=mean - 0.1, high=mean + 0.1, clips=6)


def row(lag: int = 0, **values: float) -> RowResult:
    found = {name: interval(mean) for name, mean in values.items()}
    return RowResult(about="", note="", values=found, lags={"mouth": lag, "sync": 0})


def difference(metric: str, low: float, margin: float) -> DifferenceResult:
    return DifferenceResult(
        row=SPEECH_TAKE,
        base=REFERENCE,
        metric=metric,
        mean=low + 0.1,
        low=low,
        high=low + 0.2,
        clips=6,
        speakers=1,
        resampled="clips",
        margin=margin,
        not_inferior=low > -margin,
    )


def clip_results(**changes: Any) -> ClipResults:
    """Results in which every bar is met, with ``changes``."""
    speech = row(
        csim=0.92,
        cpbd=0.95,
        kid_identity=0.14,
        kid_emotion=140.0,
        aperture_correlation=0.7,
        movement_mouth=0.8,
        variance=0.6,
        blinks=8.0,
        mottle=1.1,
        emotion=0.7,
        mouth_correlation=0.92,
    )
    found: dict[str, Any] = {
        "rows": {
            REAL: row(cpbd=1.0, kid_identity=0.1, kid_emotion=100.0, blinks=10.0),
            OTHER_TAKE: row(csim=0.91),
            STILL: row(error_mouth=9.0),
            SPEECH: speech,
            SPEECH_TAKE: row(error_mouth=8.0),
        },
        "differences": [
            difference("psnr", -0.4, 0.5),
            difference("ssim", -0.009, 0.01),
            difference("csim", 0.01, 0.02),
            difference("landmark_distance", -0.1, 0.3),
        ],
        "two_sample": [
            {"first": SPEECH, "second": REFERENCE_OTHER, "accuracy": 0.58, "low": 0.5, "high": 0.66, "clips": 40}
        ],
        "diversity": interval(1.2),
        "confusion": {"share": 0.95},
    }
    found |= changes
    return ClipResults(**found)  # type: ignore[typeddict-item]  # the bars read no other key


STUDENT = StudentResult(
    emotion_accuracy=interval(0.95),
    identity_accuracy=interval(0.96),
    speakers=4,
    clips=20,
    leak_emotion={"accuracy": 0.25, "chance": 0.2, "classes": 5, "clips": 20},
    leak_identity={"accuracy": 0.25, "chance": 0.25, "classes": 4, "clips": 20},
    notes=[],
)
NOTHING = StudentResult(
    emotion_accuracy=None, identity_accuracy=None, speakers=0, clips=0, leak_emotion=None, leak_identity=None, notes=[]
)


def verdicts(clips: ClipResults, protocol: str, student: StudentResult = STUDENT) -> dict[str, bool | None]:
    return {bar["key"]: bar["met"] for bar in compare_with_bars(clips, student, protocol)}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_good_figures_meet_every_bar(protocol: str) -> None:
    met = verdicts(clip_results(), protocol)
    assert len(met) == len(PROTOCOLS[protocol]), "keys are unique"
    assert all(met.values()), met


def test_each_figure_of_video_can_miss_its_bar() -> None:
    rows = clip_results()["rows"]
    bad = row(
        csim=0.90,
        cpbd=0.89,
        kid_identity=0.16,
        kid_emotion=151.0,
        aperture_correlation=0.64,
        movement_mouth=0.74,
        variance=1.6,
        blinks=16.0,
    )
    worse = [("psnr", 0.5), ("ssim", 0.01), ("csim", 0.02), ("landmark_distance", 0.3)]
    missed = clip_results(
        rows=rows | {SPEECH: bad, SPEECH_TAKE: row(error_mouth=9.1)},
        differences=[difference(metric, -1.1 * margin, margin) for metric, margin in worse],
        two_sample=[
            {"first": SPEECH, "second": REFERENCE_OTHER, "accuracy": 0.61, "low": 0.5, "high": 0.7, "clips": 40}
        ],
        diversity=interval(0.6),
    )
    met = verdicts(missed, "video")
    assert set(met.values()) == {False}, met


def test_limits_on_both_sides() -> None:
    (bar,) = (b for b in compare_with_bars(clip_results(), STUDENT, "video") if b["key"] == "diversity")
    assert (bar["at_least"], bar["at_most"], bar["value"]) == (0.7, 1.3, 1.2)
    assert verdicts(clip_results(diversity=interval(1.4)), "video")["diversity"] is False


def test_a_still_does_not_pass_as_not_inferior() -> None:
    """A still of 24.18 dB against a baseline of 24.93 dB passed the ratio 0.95 that was the bar before."""
    met = verdicts(clip_results(differences=[difference("psnr", 24.18 - 24.93, 0.5)]), "video")
    assert met["not_inferior_psnr"] is False


def test_puppets_need_no_lag() -> None:
    rows = clip_results()["rows"]
    late = RowResult(**{**rows[SPEECH], "lags": {"mouth": -1, "sync": 0}})
    met = verdicts(clip_results(rows=rows | {SPEECH: late}), "puppets")
    assert met["mouth_lag"] is False and met["mouth_correlation"] is True


def test_figures_that_do_not_apply_are_neither_met_nor_missed() -> None:
    empty = clip_results(
        rows={REAL: row(kid_identity=-0.01), SPEECH: row(kid_identity=0.1)},
        differences=[],
        two_sample=[],
        diversity=None,
        confusion=None,
    )
    for protocol in PROTOCOLS:
        met = verdicts(empty, protocol, NOTHING)
        assert {key for key, found in met.items() if found is not None} <= {"mouth_lag"}, protocol
    bars = {bar["key"]: bar for bar in compare_with_bars(empty, NOTHING, "video")}
    assert bars["kid_identity"]["value"] == 0.1
    assert bars["kid_identity"]["at_most"] is None, "a multiple of a distance that is not positive is no limit"
