"""Mouth shapes: those of each phoneme at its own frames, and closed lips at bilabials."""

from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.media.timing import FPS
from s2v_ray.puppets.mouth import mouth_track, shapes
from s2v_ray.puppets.voice import Phoneme


def test_opening_follows_the_phonemes_to_the_frame() -> None:
    track = mouth_track([Phoneme("'A:", 0.4, 0.8)], 30)
    middle = (np.arange(30) + 0.5) / FPS
    inside, outside = (middle > 0.45) & (middle < 0.75), (middle < 0.35) | (middle > 0.85)
    assert track.opening[inside].min() > 0.95
    assert track.opening[outside].max() < 0.02
    # the rise and the fall cross one half where the sound starts and ends
    assert np.interp(0.5, track.opening[8:13], middle[8:13]) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("start", np.arange(0.40, 0.44, 0.005))
def test_a_bilabial_closes_the_mouth_in_some_frame_at_any_time(start: float) -> None:
    track = mouth_track(
        [Phoneme("'a", 0.2, start), Phoneme("p", start, start + 0.03), Phoneme("'a", start + 0.03, 0.7)], 25
    )
    around = track.opening[8:14]
    assert around.min() < 0.02
    assert track.opening[7] > 0.8


def test_shapes() -> None:
    assert len(shapes("aI")) == 2 and shapes("aI")[0][0] > shapes("aI")[1][0]
    assert shapes("u:")[0][2] > 0.8
    assert shapes("i:")[0][2] < 0.8
    assert shapes("f")[0][3] == 1.0
    assert shapes("_:") == shapes("m") == [(0.0, 0.0, 0.0, 0.0)]
    assert shapes("'E")[0][0] > shapes("E")[0][0]


def test_ranges() -> None:
    names = ["m", "aI", "b", "r", "'V", "D", "3", "f", "'aU", "n", "d", "a#", "p", "u:", "S", "tS", "@L", "_:"]
    track = mouth_track([Phoneme(p, i * 0.05, (i + 1) * 0.05) for i, p in enumerate(names)], 24)
    for values in vars(track).values():
        assert values.shape == (24,) and np.abs(values).max() <= 1.0
    assert min(track.opening.min(), track.rounding.min(), track.tuck.min()) >= 0.0
