from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from s2v_ray.media.face import TEMPLATE
from s2v_ray.models.face_input import ARCFACE, postprocess, preprocess
from tests.helpers.face_networks import picture, plain_card


@pytest.mark.parametrize("width", [112, 96])
@pytest.mark.parametrize("size", [64, 96])
def test_arcface_cut_agrees_with_opencv(width: int, size: int) -> None:
    frame = picture(size)
    matrix, _ = cv2.estimateAffinePartial2D(
        TEMPLATE * size, ARCFACE - [(112 - width) / 2, 0], ransacReprojThreshold=100
    )
    expected = cv2.warpAffine(
        frame.astype(np.float32), matrix, (width, 112), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    got = preprocess(torch.from_numpy(frame[None]), plain_card(alignment="arcface", height=112, width=width))
    assert got.shape == (1, 3, 112, width)
    assert np.abs(got[0].movedim(0, -1).numpy() - expected).mean() < 0.3  # of 255


def test_the_eyes_are_at_those_of_the_arcface_template() -> None:
    size = 96
    frame = np.zeros((size, size, 3), np.uint8)
    for x, y in TEMPLATE[:2] * size:
        cv2.circle(frame, (round(x * 16), round(y * 16)), 3 * 16, (255, 255, 255), -1, cv2.LINE_AA, 4)
    cut = preprocess(torch.from_numpy(frame[None]), plain_card(alignment="arcface", height=112, width=112))[
        0, 0
    ].numpy()
    y, x = np.mgrid[:112, :112]
    for side, point in ((x < 56, ARCFACE[0]), (x >= 56, ARCFACE[1])):
        weight = cut * side
        assert (
            np.hypot((x * weight).sum() / weight.sum() - point[0], (y * weight).sum() / weight.sum() - point[1]) < 0.6
        )


def test_a_box_of_the_whole_crop_is_the_crop() -> None:
    frames = torch.from_numpy(picture(32)[None])
    got = preprocess(frames, plain_card(height=32, width=32, mean=(127.5,), scale=(127.5,)))
    torch.testing.assert_close(got, frames.movedim(-1, 1).float() / 127.5 - 1)


def test_box_colour_and_scale() -> None:
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    frame[:, 8:24, 16:] = (200, 100, 50)
    card = plain_card(height=8, width=8, box=(0.5, 0.25, 0.5), mean=(10.0, 20.0, 30.0), scale=(2.0,))
    got = preprocess(torch.from_numpy(frame), card)[0, :, 2:6, 2:6]
    torch.testing.assert_close(got, torch.tensor([95.0, 40.0, 10.0]).view(3, 1, 1).expand(3, 4, 4))
    bgr = preprocess(torch.from_numpy(frame), card.model_copy(update={"colour": "bgr", "mean": (0.0,)}))[0, :, 4, 4]
    torch.testing.assert_close(bgr, torch.tensor([25.0, 50.0, 100.0]))
    grey = preprocess(
        torch.from_numpy(frame), card.model_copy(update={"colour": "grey", "mean": (0.0,), "scale": (1.0,)})
    )
    assert grey.shape == (1, 1, 8, 8)
    assert grey[0, 0, 4, 4].item() == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1e-3)


def test_shrinking_does_not_alias() -> None:
    stripes = np.zeros((1, 128, 128, 3), np.uint8)
    stripes[:, :, ::2] = 255
    got = preprocess(torch.from_numpy(stripes), plain_card(height=16, width=16))
    assert (got[..., 2:-2] - 127.5).abs().max() < 8


def test_outputs_by_role() -> None:
    raw = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    torch.testing.assert_close(postprocess(raw, "identity"), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(postprocess(raw, "mouth"), raw.sigmoid())
    assert postprocess(raw, "emotion") is raw
