from __future__ import annotations

import pytest

from s2v_ray.puppets.expression import EXPRESSIONS, Expression
from s2v_ray.puppets.voice import PROSODY


def test_every_emotion_has_an_expression_and_a_prosody() -> None:
    assert set(EXPRESSIONS) == set(PROSODY)
    assert EXPRESSIONS["neutral"] == Expression()


def test_strength_scales_from_neutral() -> None:
    happy = EXPRESSIONS["happy"]
    assert happy.scaled(0.0) == Expression()
    assert vars(happy.scaled(1.0)) == pytest.approx(vars(happy))
    assert happy.scaled(0.5).smile == pytest.approx(0.5 * happy.smile)
    assert happy.scaled(0.5).lids == pytest.approx(1.0 + 0.5 * (happy.lids - 1.0))
