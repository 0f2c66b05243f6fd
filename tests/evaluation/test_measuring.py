from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.evaluation.measuring import Measurements, describe_metrics, judge_rows
from s2v_ray.evaluation.rows import OTHER_TAKE, REAL, SPEECH, STILL
from s2v_ray.metrics.clip_metrics import JUDGED_FRAMES, METRICS
from s2v_ray.models.judges import Judges
from tests.helpers.evaluated import EMOTIONS, FRAMES, JUDGES, RECIPE, make_clip


def test_judges_see_the_rows_of_a_clip() -> None:
    clip = make_clip(1, 1, 2)
    judged = judge_rows(JUDGES, clip, {REAL: clip.frames})[REAL]
    assert judged.identity is not None and judged.identity.shape == (JUDGED_FRAMES, 6)
    assert judged.emotion == EMOTIONS[2]
    assert judged.mouth_opening is not None and judged.mouth_opening.shape == (FRAMES,)
    np.testing.assert_allclose(judged.mouth_opening, clip.mouth_opening, atol=1 / 250)
    assert judged.sync_distances is not None and np.nanargmin(judged.sync_distances) == 15


def test_what_cannot_be_judged_is_none() -> None:
    clip = make_clip(1, 1, 2, labelled=False)
    judged = judge_rows(JUDGES, clip, {REAL: clip.frames})[REAL]
    assert judged.mouth_opening is None, "the true opening is not known"
    nothing = judge_rows(Judges(), clip, {REAL: clip.frames})[REAL]
    assert nothing.identity is None and nothing.emotion is None and nothing.sync_distances is None


def test_measurements_are_summarised_by_row() -> None:
    measurements = Measurements()
    for n in range(3):
        clip = make_clip(n, n % 2, n % 3)
        frames = dict.fromkeys((SPEECH, STILL, REAL), clip.frames)
        if n == 1:
            frames[OTHER_TAKE] = clip.frames[::-1].copy()
        measurements.add(clip, frames, judge_rows(JUDGES, clip, frames), clip.emotion)
    rows = measurements.summarise(RECIPE, {OTHER_TAKE: "2 clips lack it"})
    assert list(rows) == [REAL, OTHER_TAKE, STILL, SPEECH], "in the order of tables; absent rows are left out"
    assert rows[SPEECH]["values"].keys() == METRICS.keys()
    assert rows[SPEECH]["values"]["ssim"]["clips"] == 3
    assert rows[SPEECH]["values"]["ssim"]["mean"] == pytest.approx(1.0)
    assert rows[SPEECH]["lags"] == {"mouth": 0, "sync": 0}
    assert rows[SPEECH]["note"] == "" and rows[OTHER_TAKE]["note"] == "2 clips lack it"
    assert rows[OTHER_TAKE]["values"]["ssim"]["clips"] == 1
    assert measurements.counts() == {SPEECH: 3, STILL: 3, REAL: 3, OTHER_TAKE: 1}


def test_values_are_aligned_with_their_clips() -> None:
    measurements = Measurements(["a", "b", "c"], {OTHER_TAKE: {"ssim": {1: 0.5}}})
    found = measurements.array(OTHER_TAKE, "ssim")
    assert found is not None
    np.testing.assert_array_equal(found, [np.nan, 0.5, np.nan])
    assert measurements.array(OTHER_TAKE, "psnr") is None and measurements.array(REAL, "ssim") is None


def test_signals_come_from_landmarks_or_from_brightness() -> None:
    clip = make_clip(1, 1, 2)
    by_network = judge_rows(JUDGES, clip, {REAL: clip.frames})[REAL]
    assert by_network.landmarks is not None and by_network.landmarks.shape == (JUDGED_FRAMES, 5, 2)
    assert by_network.signals is not None
    np.testing.assert_allclose(by_network.signals.aperture, 0.2 * clip.mouth_opening, atol=1e-2)
    np.testing.assert_allclose(by_network.signals.eye_opening, 0.04)
    by_brightness = judge_rows(Judges(), clip, {REAL: clip.frames})[REAL]
    assert by_brightness.landmarks is None
    assert by_brightness.signals is not None and by_brightness.signals.aperture.shape == (FRAMES,)


def test_every_metric_is_described() -> None:
    described = describe_metrics()
    assert described.keys() == METRICS.keys()
    assert described["psnr"] == {
        "name": "PSNR",
        "better": "higher",
        "unit": "dB",
        "digits": 2,
        "about": METRICS["psnr"].metric.about,
    }
