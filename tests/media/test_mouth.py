from s2v_ray.media.mouth import mouth_box, mouth_mask


def test_mouth_box_and_mask_agree() -> None:
    y0, y1, x0, x1 = mouth_box(64)
    assert (y0, y1, x0, x1) == (40, 58, 20, 44)
    mask = mouth_mask(64)
    assert mask.shape == (64, 64) and float(mask.min()) >= 0 and float(mask.max()) <= 1
    assert mask[49, 32] > 0.99 and mask[20, 32] < 1e-3 and mask[49, 5] < 1e-3
    assert float(mask[y0:y1, x0:x1].sum() / mask.sum()) > 0.85
