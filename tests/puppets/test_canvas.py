from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.puppets.canvas import Canvas, Pose, arc, between, curve, mix

BACKGROUND = np.zeros((64, 64, 3), np.uint8)
RED = (255, 0, 0)
SQUARE = np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])


def test_a_pose_scales_rotates_and_moves() -> None:
    placed = Pose(10.0, 20.0, 4.0, np.radians(90.0)).place(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert placed == pytest.approx(np.array([[10.0, 20.0], [10.0, 24.0], [6.0, 20.0]]))


def test_a_filled_square_covers_its_area() -> None:
    canvas = Canvas(Pose(16.0, 16.0, 8.0))
    canvas.fill(SQUARE, RED)
    frame = canvas.render(BACKGROUND)
    assert frame.shape == (32, 32, 3)
    assert (frame[13:19, 13:19] == RED).all()
    assert not frame[:11].any() and not frame[:, :11].any() and not frame[22:].any()
    assert not BACKGROUND.any()  # it is copied


def test_an_offset_moves_later_strokes() -> None:
    canvas = Canvas(Pose(16.0, 16.0, 8.0))
    canvas.fill(SQUARE, RED)
    canvas.set_offset(1.25)
    canvas.fill(SQUARE, (0, 255, 0))
    frame = canvas.render(BACKGROUND)
    assert tuple(frame[16, 16]) == RED
    assert tuple(frame[16, 26]) == (0, 255, 0)


def test_lines_have_a_width_and_later_strokes_cover_earlier_ones() -> None:
    canvas = Canvas(Pose(16.0, 16.0, 8.0))
    canvas.ellipse(0.0, 0.0, 1.0, 1.0, RED)
    canvas.line(np.array([[-1.5, 0.0], [1.5, 0.0]]), (0, 0, 255), 0.5)
    frame = canvas.render(BACKGROUND)
    assert tuple(frame[16, 16]) == (0, 0, 255)
    assert tuple(frame[20, 16]) == RED
    assert (frame[:, 16, 2] > 128).sum() == pytest.approx(4, abs=1)


def test_points_of_an_arc() -> None:
    points = arc(1.0, 2.0, 3.0, 0.5, 0.0, 90.0)
    assert points[0] == pytest.approx([4.0, 2.0])
    assert points[-1] == pytest.approx([1.0, 2.5])


def test_curves_and_areas() -> None:
    x = np.array([0.0, 1.0])
    assert curve(x, x + 1).tolist() == [[0.0, 1.0], [1.0, 2.0]]
    assert between(x, x - 1, x + 1).tolist() == [[0.0, -1.0], [1.0, 0.0], [1.0, 2.0], [0.0, 1.0]]


def test_mixed_colours() -> None:
    assert mix((0, 100, 200), (100, 0, 0), 0.25) == (25, 75, 150)
