from __future__ import annotations

import cv2
import numpy as np

from s2v_ray.evaluation import pictures

DARK, LIGHT = (np.full((10, 32, 32, 3), level, np.uint8) for level in (20, 220))


def test_a_contact_sheet_has_a_row_for_each_label() -> None:
    sheet = pictures.contact_sheet([{"dark": DARK, "light": LIGHT}, {"dark": DARK, "light": LIGHT}], frames=3)
    side = pictures.TILE
    assert sheet.dtype == np.uint8
    assert sheet.shape[0] == 2 * (side + pictures.GAP) + pictures.GAP
    tiles = sheet[:, pictures.LABEL_WIDTH :]
    assert (tiles[: side + pictures.GAP] == 20).mean() > 0.8
    assert (tiles[side + pictures.GAP :] == 220).mean() > 0.8


def test_side_by_side_frames_have_even_sides() -> None:
    frames = list(pictures.side_by_side({"dark": DARK, "light": LIGHT[:7]}))
    assert len(frames) == 7, "the shortest row ends the video"
    height, width, _ = frames[0].shape
    assert height % 2 == width % 2 == 0
    assert (frames[0][40:, : width // 3] == 20).all()
    assert (frames[0][40:, -width // 3 :] == 220).all()


def test_png_is_lossless_rgb() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)
    decoded = cv2.imdecode(np.frombuffer(pictures.to_png(image), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded[..., ::-1], image)
