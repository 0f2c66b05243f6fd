"""Appearance of one puppet's face, derived from the traits of its identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2v_ray.puppets.canvas import Colour
from s2v_ray.puppets.hair import Hair

_SKINS: tuple[Colour, ...] = (
    (255, 224, 196),
    (246, 203, 166),
    (232, 182, 140),
    (214, 158, 114),
    (184, 126, 84),
    (150, 98, 64),
    (116, 74, 50),
    (250, 212, 190),
)
_EYES: tuple[Colour, ...] = (
    (86, 140, 190),
    (92, 62, 38),
    (76, 134, 92),
    (128, 96, 52),
    (110, 124, 140),
    (54, 40, 34),
    (58, 150, 160),
)
_BACKGROUNDS: tuple[Colour, ...] = (
    (178, 212, 226),
    (240, 208, 178),
    (196, 220, 186),
    (224, 196, 222),
    (244, 226, 160),
    (176, 196, 238),
    (238, 190, 186),
    (190, 226, 214),
)
_SHIRTS: tuple[Colour, ...] = (
    (198, 76, 72),
    (62, 112, 160),
    (74, 140, 98),
    (226, 160, 58),
    (120, 84, 150),
    (60, 64, 84),
    (232, 232, 224),
    (214, 116, 150),
)


@dataclass(frozen=True)
class Face:
    """A puppet's face without an expression. Lengths in distances of the eyes.

    Attributes:
        skin, eyes, background, shirt: colours.
        hair: hair and beard.
        half_width: half the width of the head.
        chin: y of the chin.
        jaw: exponent of the jaw's superellipse; 2 is an ellipse, larger values are more square.
        eye_size, eye_slant: of the eyes.
        brow: thickness of the brows.
        nose: shape, 0 to 3.
        nose_size: factor.
        lips: fullness.
        ears: factor on the size.
        lashes, freckles: whether they are drawn.
        glasses: 0 none, 1 round, 2 square.
    """

    skin: Colour
    eyes: Colour
    background: Colour
    shirt: Colour
    hair: Hair
    half_width: float
    chin: float
    jaw: float
    eye_size: float
    eye_slant: float
    brow: float
    nose: int
    nose_size: float
    lips: float
    ears: float
    lashes: bool
    freckles: bool
    glasses: int

    @classmethod
    def from_traits(cls, traits: Mapping[str, float]) -> Face:
        """Derives a face from the traits of an identity; a large build gives a broad jaw and thick brows."""
        build = traits["build"]
        skin = _pick(_SKINS, traits["skin"])
        return cls(
            skin=skin,
            eyes=_pick(_EYES, traits["eyes"]),
            background=_pick(_BACKGROUNDS, traits["background"]),
            shirt=_pick(_SHIRTS, traits["shirt"]),
            hair=Hair.from_traits(traits, skin),
            half_width=1.12 + 0.16 * build + 0.12 * traits["width"],
            chin=1.80 + 0.10 * build + 0.10 * traits["chin"],
            jaw=1.85 + 0.55 * build + 0.5 * traits["jaw"],
            eye_size=1.18 - 0.22 * build + 0.12 * (traits["eye_size"] - 0.5),
            eye_slant=0.16 * (traits["slant"] - 0.5),
            brow=0.055 + 0.05 * build + 0.03 * traits["brow"],
            nose=int(traits["nose"] * 4),
            nose_size=0.85 + 0.25 * build + 0.2 * traits["nose_size"],
            lips=0.065 + 0.055 * traits["lips"] + 0.03 * (1.0 - build),
            ears=0.85 + 0.4 * traits["ears"],
            lashes=build < 0.45,
            freckles=traits["freckles"] > 0.72,
            glasses=int(max(traits["glasses"] - 0.64, 0.0) / 0.18 + 0.999),
        )


def _pick(items: Sequence[Colour], trait: float) -> Colour:
    return items[int(trait * len(items))]
