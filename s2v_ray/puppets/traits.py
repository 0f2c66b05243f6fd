"""Traits of the puppets' identities, from which voice and face are derived."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from s2v_ray.puppets.face import Face
from s2v_ray.puppets.voice import ACCENTS, Voice

VOICE_WEIGHTS = {
    "build": 2.0,
    "throat": 1.0,
    "nose_tone": 1.0,
    "vowel": 0.7,
    "front": 0.7,
    "twang": 0.7,
    "bright": 0.7,
}
"""Weights of the traits in the distance of two voices; the accent is added with ``ACCENT_WEIGHT``."""
ACCENT_WEIGHT = 0.5
TRAITS = (
    *VOICE_WEIGHTS, "accent", "pitch", "breath", "rough", "tempo",
    "skin", "eyes", "background", "shirt", "hair", "style", "hat", "beard", "width", "chin", "jaw", "eye_size", "slant",
    "brow", "nose", "nose_size", "lips", "ears", "freckles", "glasses",
)  # fmt: skip
"""Names of all traits."""
ACTORS = 24
"""Faces that are drawn together for the actors of recordings, so that a face does not depend on who else is there."""
_CANDIDATES = 200  # for 24 speakers; the time of a comparison grows with the square of their number
_MIN_CANDIDATES = 4


@dataclass(frozen=True)
class Puppet:
    """One speaker: a voice and a face that are derived from the same traits."""

    name: str
    voice: Voice
    face: Face


@functools.lru_cache(maxsize=4)
def draw_traits(seed: int, count: int) -> tuple[dict[str, float], ...]:
    """Draws the traits of ``count`` speakers, each in [0, 1) and evenly spread over the speakers (a Latin hypercube).

    Several candidates are drawn, and the one is used whose two most similar voices have the largest distance (maximin;
    Johnson, Moore and Ylvisaker 1990), so that all speakers are distinguishable.
    """
    rng = np.random.default_rng([seed, 1])
    best: np.ndarray = np.empty(0)
    best_distance = -1.0
    for _ in range(max(_CANDIDATES * 24 // max(count, 24), _MIN_CANDIDATES)):
        ranks = rng.permuted(np.tile(np.arange(count)[:, None], len(TRAITS)), axis=0)
        drawn = (ranks + rng.uniform(0.2, 0.8, ranks.shape)) / count
        distance = _min_voice_distance(drawn)
        if distance > best_distance:
            best, best_distance = drawn, distance
    return tuple({name: float(value) for name, value in zip(TRAITS, row, strict=True)} for row in best)


def _min_voice_distance(drawn: np.ndarray) -> float:
    """Returns the squared distance of the two most similar voices of traits ``[N, len(TRAITS)]``."""
    voices = drawn[:, : len(VOICE_WEIGHTS)] * list(VOICE_WEIGHTS.values())
    accents = (drawn[:, len(VOICE_WEIGHTS)] * len(ACCENTS)).astype(int)
    voices = np.concatenate([voices, ACCENT_WEIGHT * np.eye(len(ACCENTS))[accents]], 1)
    squares = ((voices[:, None] - voices[None]) ** 2).sum(2)
    return float(squares[~np.eye(len(drawn), dtype=bool)].min())


def make_puppet(seed: int, index: int, count: int) -> Puppet:
    """Returns speaker ``index`` of ``count``."""
    traits = draw_traits(seed, count)[index]
    return Puppet(f"puppet{index:03d}", Voice.from_traits(traits), Face.from_traits(traits))


def make_actor_face(seed: int, actor: int) -> Face:
    """Returns the face of an actor, a number from 1; an odd number is a man, whose build is large, an even one a woman.

    Each ``ACTORS`` actors are drawn together.
    """
    group, index = divmod(actor - 1, ACTORS)
    traits = draw_traits(seed + group, ACTORS)[index]
    return Face.from_traits({**traits, "build": 0.5 * traits["build"] + (0.5 if actor % 2 else 0.0)})
