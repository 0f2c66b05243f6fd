"""Time warping finds the phonemes of voices whose phonemes are known."""

from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.media.audio import resample
from s2v_ray.media.ravdess import SENTENCES
from s2v_ray.puppets.espeak import RATE
from s2v_ray.puppets.warping import align_phonemes, cepstra, make_templates, warp
from tests.helpers.recorded import say


def test_warping_inverts_a_change_of_tempo() -> None:
    curve = np.cumsum(np.random.default_rng(0).normal(0, 1, (60, 5)), axis=0)
    slower = curve[np.repeat(np.arange(60), 2)]
    path = warp(curve, slower)
    assert np.allclose(path.rows, 2 * np.arange(60) + 0.5)
    assert path.cost == pytest.approx(0.0, abs=1e-3)
    assert np.allclose(warp(slower, curve).rows, np.repeat(np.arange(60), 2))


def test_warping_has_the_smallest_cost_of_all_paths() -> None:
    """By hand: the pause in the second is aligned with the one zero of the first."""
    first = np.array([[1.0], [0.0], [5.0]])
    second = np.array([[1.0], [0.0], [0.0], [0.0], [5.0]])
    path = warp(first, second)
    assert path.rows.tolist() == [0.0, 2.0, 4.0]
    assert warp(first, second + 1.0).cost > path.cost


def test_cepstra_do_not_depend_on_the_level() -> None:
    speech = resample(say(1, "neutral", 1).samples, RATE)
    quiet, loud = cepstra(0.5 * speech), cepstra(speech)
    assert loud.shape == (-(-len(speech) // 160), 26)
    assert np.corrcoef(quiet.ravel(), loud.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(("actor", "emotion"), [(1, "neutral"), (2, "happy"), (1, "sad"), (2, "angry")])
def test_phonemes_of_a_stranger_are_found(actor: int, emotion: str) -> None:
    truth = say(actor, emotion, 2)
    found = align_phonemes(resample(truth.samples, RATE), SENTENCES[1])
    names = make_templates(SENTENCES[1])[0].phonemes
    assert len(names) >= 16
    assert [p.phoneme for p in found] == [n for n in names if n in {p.phoneme for p in found}]
    starts = {i: p.start for i, p in enumerate(truth.phonemes)}
    assert len(truth.phonemes) == len(found)
    errors = [abs(p.start - starts[i]) for i, p in enumerate(found)]
    assert np.median(errors) < 0.01
    assert max(errors) < 0.03


def test_the_twins_have_the_same_phonemes_and_other_voices() -> None:
    templates = make_templates(SENTENCES[0])
    assert len({template.phonemes for template in templates}) == 1
    assert len({len(template.edges) for template in templates}) == 1
    assert all((np.diff(template.edges) > 0).all() for template in templates)
    assert not np.array_equal(templates[0].features, templates[-1].features)
