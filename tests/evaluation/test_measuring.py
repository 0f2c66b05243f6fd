from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.evaluation.measuring import Measurements, describe_metrics, judge_rows
from s2v_ray.evaluation.rows import IMAGE_IDENTITY, REAL, REFERENCE, SPEECH, STILL
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
        frames = dict.fromkeys((SPEECH, IMAGE_IDENTITY, STILL, REAL), clip.frames)
        measurements.add(clip, frames, judge_rows(JUDGES, clip, frames), clip.emotion)
    rows = measurements.summarise(RECIPE)
    assert rows[REFERENCE]["values"] == rows[IMAGE_IDENTITY]["values"]
    assert rows[REFERENCE]["note"] and not rows[SPEECH]["note"]
    assert rows[SPEECH]["values"].keys() == METRICS.keys()
    assert rows[SPEECH]["values"]["ssim"]["clips"] == 3
    assert rows[SPEECH]["values"]["ssim"]["mean"] == pytest.approx(1.0)
    assert rows[SPEECH]["lags"] == {"mouth": 0, "sync": 0}


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
