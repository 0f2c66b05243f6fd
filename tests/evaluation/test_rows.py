from __future__ import annotations

import numpy as np

from s2v_ray.evaluation.rows import IMAGE_IDENTITY, REAL, REFERENCE, ROWS, SPEECH, STILL, RowGenerator
from tests.helpers.evaluated import ExactPredictor, identity, make_clip


def test_every_row_is_generated() -> None:
    clip, reference = make_clip(3, 1, 2), ExactPredictor()
    made = RowGenerator(ExactPredictor(), reference, identity, seed=0).rows(clip)
    assert made.frames.keys() == set(ROWS)
    assert made.frames[REAL] is clip.frames
    assert np.array_equal(made.frames[STILL], np.repeat(clip.frames[:1], len(clip.frames), axis=0))
    for row in (SPEECH, IMAGE_IDENTITY, REFERENCE):
        assert np.array_equal(made.frames[row], clip.frames), row
    assert np.array_equal(reference.stills[0], clip.frames[0])
    assert made.seconds > 0


def test_without_a_reference_its_row_is_missing() -> None:
    made = RowGenerator(ExactPredictor(), None, identity, seed=0).rows(make_clip(3, 1, 2))
    assert made.frames.keys() == set(ROWS) - {REFERENCE}
