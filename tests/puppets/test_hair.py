from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.puppets import hair
from s2v_ray.puppets.canvas import Canvas, Pose
from s2v_ray.puppets.hair import STYLES, Hair
from s2v_ray.puppets.traits import TRAITS

GREEN, HAT = (0, 255, 0), (0, 0, 255)


def drawn(style: str, beard: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that the back and the front of the hair change, bool ``[64, 64]`` each."""
    made = Hair(style, GREEN, (200, 0, 0), HAT, beard)
    background = np.zeros((128, 128, 3), np.uint8)
    frames = []
    for draw in (hair.draw_back, hair.draw_front):
        canvas = Canvas(Pose(32.0, 28.0, 14.0))
        canvas.fill(np.zeros((3, 2)), (0, 0, 0))
        draw(canvas, made, 1.2)
        frames.append(canvas.render(background).any(-1))
    return frames[0], frames[1]


@pytest.mark.parametrize("style", STYLES)
def test_every_style_is_drawn_and_styles_differ(style: str) -> None:
    back, front = drawn(style)
    assert front.any()
    assert back.any() == (style in ("bob", "long", "waves", "afro", "bun", "tails"))
    for other in STYLES:
        if other != style:
            assert not all(np.array_equal(a, b) for a, b in zip((back, front), drawn(other), strict=True))


def test_hair_stays_above_the_eyes_in_front() -> None:
    for style in STYLES:
        _, front = drawn(style)
        assert not front[28:, 28:36].any(), style


@pytest.mark.parametrize("beard", [0, 1, 2, 3])
def test_beards(beard: int) -> None:
    made = Hair("bald", GREEN, (200, 0, 0), HAT, beard)
    angles = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    head = np.stack([1.2 * np.cos(angles), 0.2 + 1.7 * np.sin(angles)], 1)
    canvas = Canvas(Pose(32.0, 28.0, 14.0))
    canvas.fill(np.zeros((3, 2)), (0, 0, 0))
    hair.draw_beard(canvas, made, head, (255, 224, 196))
    hair.draw_moustache(canvas, made, 0.0)
    rows = canvas.render(np.zeros((128, 128, 3), np.uint8)).any(-1).sum(1)
    assert (rows > 0).any() == (beard > 0)
    assert (rows[50:] > 0).any() == (beard >= 2)  # along the jaw


def test_small_builds_have_no_beard() -> None:
    traits = dict.fromkeys(TRAITS, 0.5) | {"beard": 0.9}
    assert Hair.from_traits(traits | {"build": 0.5}, (116, 74, 50)).beard == 0
    assert Hair.from_traits(traits | {"build": 0.6}, (116, 74, 50)).beard == 3


def test_brows_are_darker_on_a_skin_of_similar_colour() -> None:
    traits = dict.fromkeys(TRAITS, 0.5)
    usual = Hair.from_traits(traits, (250, 212, 190)).brow
    darker = Hair.from_traits(traits, usual).brow
    assert sum(darker) < 0.6 * sum(usual)
