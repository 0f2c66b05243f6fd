import pytest

from s2v_ray.media.face import TEMPLATE
from s2v_ray.media.regions import eye_mask, mouth_box, mouth_mask, upper_mask


def test_mouth_box_and_mask_agree() -> None:
    y0, y1, x0, x1 = mouth_box(64)
    assert (y0, y1, x0, x1) == (40, 58, 20, 44)
    mask = mouth_mask(64)
    assert mask.shape == (64, 64) and float(mask.min()) >= 0 and float(mask.max()) <= 1
    assert mask[49, 32] > 0.99 and mask[20, 32] < 1e-3 and mask[49, 5] < 1e-3
    assert float(mask[y0:y1, x0:x1].sum() / mask.sum()) > 0.85


def test_the_eyes_are_two_regions_around_those_of_the_template() -> None:
    mask = eye_mask(96)
    for x, y in TEMPLATE[:2]:
        assert mask[round(96 * float(y)), round(96 * float(x))] > 0.9
    assert mask[40, 48] < 0.1 and mask[20, 35] < 1e-3  # the bridge of the nose, the forehead
    assert mask.equal(mask.flip(1)) and not (mask * mouth_mask(96) > 1e-3).any()
    assert float(mask.sum()) == pytest.approx(2 * 10 * 17, rel=0.1)


def test_the_upper_part_ends_above_the_mouth_and_has_the_eyes() -> None:
    upper = upper_mask(96)
    assert upper.shape == (96, 96) and upper[:50].min() > 0.95 and upper[58:].max() < 0.05
    y0, *_ = mouth_box(96)
    assert upper[y0].max() < 0.02 and (eye_mask(96) * (1 - upper)).max() < 0.01
