"""Drawn frames agree with the ground truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from s2v_ray.media.face import TEMPLATE, align
from s2v_ray.puppets.canvas import Pose
from s2v_ray.puppets.drawing import LANDMARKS, FrameState, draw, rest_landmarks
from s2v_ray.puppets.expression import EXPRESSIONS
from s2v_ray.puppets.traits import make_puppet

POSE = Pose(80.0, 70.0, 37.6)


def test_five_points_are_those_of_the_template() -> None:
    scaled = (LANDMARKS * 0.28) + TEMPLATE[:2].mean(0)
    assert np.abs(scaled - TEMPLATE).max() < 0.002


def test_landmarks_depend_on_the_pose_of_the_head_only() -> None:
    placed = rest_landmarks(Pose(60.0, 50.0, 40.0, np.radians(90.0)))
    assert placed[:2] == pytest.approx(np.array([[60.0, 30.0], [60.0, 70.0]]))  # rotated clockwise
    assert placed[2] == pytest.approx([60.0 - 0.571 * 40.0, 50.0])


FACE = make_puppet(0, 14, 24).face
GREEN = replace(FACE, skin=(60, 200, 60), hair=replace(FACE.hair, beard=0))
"""A green puppet: in its lower face, only the inside of the mouth is red or white."""


@pytest.mark.parametrize("emotion", EXPRESSIONS)
def test_the_drawn_opening_of_the_mouth_is_the_given_one(emotion: str) -> None:
    for opening in (0.0, 0.2, 0.4, 0.7, 1.0):
        column = draw(GREEN, EXPRESSIONS[emotion], FrameState(opening), POSE, 160)[100:150, 80].astype(int)
        inside = (column[:, 0] > column[:, 1] + 30) | (column.min(1) > 150)
        # half the distance of the eyes at 1; the edge pixels above and below are mixed with lip
        assert inside.sum() == pytest.approx(opening * 0.5 * 37.6, abs=2.2), opening


def test_the_eyes_are_where_the_landmarks_are() -> None:
    frame = draw(FACE, EXPRESSIONS["surprised"], FrameState(0.0), Pose(76.0, 66.0, 38.0, np.radians(4.0)), 160)
    for x, y in rest_landmarks(Pose(76.0, 66.0, 38.0, np.radians(4.0)))[:2]:
        patch = frame[round(y) - 1 : round(y) + 4, round(x) - 2 : round(x) + 3].astype(int)
        assert patch.min() < 60  # the pupil


@pytest.mark.parametrize("speaker", range(0, 24, 5))
def test_emotions_are_distinguishable_at_64_pixels(speaker: int) -> None:
    face = make_puppet(0, speaker, 24).face
    crops = {}
    for emotion, expression in EXPRESSIONS.items():
        frame = draw(face, expression, FrameState(0.3), POSE, 160)
        crops[emotion] = align(frame[None], rest_landmarks(POSE)[None].astype(np.float32), 64)[0][0].astype(float)
    names = list(crops)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            eyes = np.abs(crops[a][12:36] - crops[b][12:36]).max(2) > 40
            mouth = np.abs(crops[a][38:58] - crops[b][38:58]).max(2) > 40
            assert eyes.sum() + mouth.sum() > 25, (a, b)
            assert eyes.sum() > 8, (a, b)


def test_a_blink_closes_the_eye() -> None:
    opened, closed = (draw(FACE, EXPRESSIONS["neutral"], FrameState(0.0, blink=b), POSE, 160) for b in (0.0, 1.0))
    white = [int((f[60:80, 50:110].min(2) > 235).sum()) for f in (opened, closed)]
    assert white[0] > 20
    assert white[1] == 0
