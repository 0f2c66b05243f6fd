from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from s2v_ray.evaluation import rows
from s2v_ray.evaluation.rows import ROWS, RowGenerator, missing_rows
from s2v_ray.inference.request import GenerationRequest
from tests.helpers.evaluated import ExactPredictor, FixedTakes, identity, make_clip

CLIP, OTHER, THIRD = make_clip(3, 1, 2), make_clip(5, 1, 0), make_clip(7, 1, 1)


class SeededPredictor(ExactPredictor):
    """Adds the seed to the frames, so that samples differ."""

    def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]:
        for frames in super().generate(request):
            yield frames + np.uint8(request.seed % 251)


def test_every_row_is_generated() -> None:
    predictor, reference = ExactPredictor(), ExactPredictor()
    made = RowGenerator(predictor, reference, identity, 0, FixedTakes([CLIP, OTHER, THIRD]), best_of=2).rows(CLIP)
    assert list(made.frames) == list(ROWS)
    assert made.frames[rows.REAL] is CLIP.frames
    count = len(CLIP.frames)
    assert np.array_equal(made.frames[rows.STILL], np.repeat(CLIP.frames[:1], count, axis=0))
    assert np.array_equal(made.frames[rows.OTHER_STILL], np.repeat(OTHER.frames[:1], count, axis=0))
    assert np.array_equal(made.frames[rows.OTHER_TAKE], OTHER.frames)
    mean = (OTHER.frames.mean(0) + THIRD.frames.mean(0)) / 2
    assert np.abs(made.frames[rows.MEAN_FRAME][count - 1] - mean).max() <= 0.5
    for row in (rows.SPEECH, rows.SPEECH_TAKE, rows.IMAGE_IDENTITY, rows.REFERENCE, rows.REFERENCE_OTHER):
        assert np.array_equal(made.frames[row], CLIP.frames), row
    assert made.seconds > 0


def test_the_baseline_gets_either_still_and_the_bundle_the_take_of_the_first_frame() -> None:
    predictor, reference = ExactPredictor(), ExactPredictor()
    RowGenerator(predictor, reference, identity, 4, FixedTakes([CLIP, OTHER]), best_of=3).rows(CLIP)
    assert [still.tolist() for still in reference.stills] == [CLIP.frames[0].tolist(), OTHER.frames[0].tolist()]
    (take,) = predictor.takes
    assert np.array_equal(take, CLIP.frames[0])
    expected = {rows.sample_seed(4, CLIP, k) for k in range(3)}
    assert set(predictor.seeds) == expected and len(expected) == 3, "each sampled take has its own seed"


def test_the_best_of_k_has_the_highest_psnr() -> None:
    made = RowGenerator(SeededPredictor(), None, identity, 2, FixedTakes([OTHER, THIRD]), best_of=3).rows(CLIP)
    assert len(made.samples) == 3 and len(made.takes) == 2
    distances = [np.square(sample.astype(float) - CLIP.frames).mean() for sample in made.samples]
    assert len(set(distances)) == 3
    assert np.array_equal(made.frames[rows.BEST_SPEECH], made.samples[int(np.argmin(distances))])
    assert np.array_equal(made.frames[rows.SPEECH], made.samples[0])
    errors = [np.square(take.astype(float) - CLIP.frames).mean() for take in made.takes]
    assert np.array_equal(made.frames[rows.BEST_REAL], made.takes[int(np.argmin(errors))])


def test_rows_that_do_not_apply_are_missing_and_counted() -> None:
    made = RowGenerator(ExactPredictor(), None, identity, 0, FixedTakes([CLIP]), best_of=2).rows(CLIP)
    needs_take = {rows.OTHER_TAKE, rows.OTHER_STILL, rows.MEAN_FRAME, rows.BEST_REAL}
    assert made.frames.keys() == set(ROWS) - needs_take - {rows.REFERENCE, rows.REFERENCE_OTHER}
    reasons = missing_rows(dict.fromkeys(made.frames, 1) | {rows.OTHER_TAKE: 0}, 1, has_reference=False)
    assert reasons.keys() == needs_take | {rows.REFERENCE, rows.REFERENCE_OTHER}
    assert reasons[rows.REFERENCE] == reasons[rows.REFERENCE_OTHER] == "no reference bundle was given"
    assert reasons[rows.MEAN_FRAME] == "1 of 1 clips have no other take of their speaker in the corpus"
    assert missing_rows(dict.fromkeys(ROWS, 3) | {rows.REFERENCE_OTHER: 2}, 3, has_reference=True) == {
        rows.REFERENCE_OTHER: "1 of 3 clips have no other take of their speaker in the corpus"
    }
