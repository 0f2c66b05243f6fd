"""Expressions of the face for each emotion."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Expression:
    """Changes that an emotion makes to any face. The defaults are neutral.

    Attributes:
        smile: corners of the mouth up (> 0) or down (< 0).
        stretch: mouth wider (> 0) or narrower (< 0).
        pout: rounding of the lips.
        part: opening of the resting mouth.
        gain: factor on the opening of the mouth in speech.
        teeth: visibility of the teeth.
        brow_raise: brows up (> 0) or down (< 0).
        brow_tilt: inner ends of the brows up (> 0) or down (< 0).
        lids: opening of the upper lids.
        squint: raising of the lower lids.
        lid_slant: upper lids fall to the outside (> 0) or to the inside (< 0).
        iris: factor on the size of the pupils and irises.
        gaze: gaze down.
        blush: colour of the cheeks.
        frown: folds between the brows.
    """

    smile: float = 0.0
    stretch: float = 0.0
    pout: float = 0.0
    part: float = 0.0
    gain: float = 1.0
    teeth: float = 0.0
    brow_raise: float = 0.0
    brow_tilt: float = 0.0
    lids: float = 1.0
    squint: float = 0.0
    lid_slant: float = 0.0
    iris: float = 1.0
    gaze: float = 0.0
    blush: float = 0.35
    frown: float = 0.0

    def scaled(self, strength: float) -> Expression:
        """Returns the expression with another strength; 0 is neutral, 1 leaves it unchanged."""
        neutral = Expression()
        values = vars(self).items()
        return replace(self, **{k: getattr(neutral, k) + strength * (v - getattr(neutral, k)) for k, v in values})


EXPRESSIONS: dict[str, Expression] = {
    "neutral": Expression(),
    "happy": Expression(
        smile=1.15, stretch=0.22, part=0.10, teeth=1.0, brow_raise=0.08, lids=0.86, squint=0.62, blush=1.0
    ),
    "sad": Expression(
        smile=-0.95,
        stretch=-0.12,
        gain=0.85,
        brow_raise=0.04,
        brow_tilt=0.85,
        lids=0.62,
        lid_slant=0.7,
        gaze=0.35,
        blush=0.15,
    ),
    "angry": Expression(
        smile=-0.55,
        stretch=0.10,
        gain=1.05,
        teeth=0.8,
        brow_raise=-0.15,
        brow_tilt=-1.0,
        lids=0.80,
        squint=0.35,
        lid_slant=-0.9,
        blush=0.7,
        frown=1.0,
    ),
    "surprised": Expression(
        smile=0.05, stretch=-0.34, pout=0.8, part=0.36, gain=1.15, brow_raise=0.25, lids=1.42, iris=0.80, blush=0.45
    ),
    "fearful": Expression(
        smile=-0.45,
        stretch=0.25,
        part=0.08,
        teeth=0.6,
        brow_raise=0.16,
        brow_tilt=0.65,
        lids=1.25,
        iris=0.66,
        blush=0.0,
        frown=0.5,
    ),
    "calm": Expression(smile=0.45, lids=0.70, squint=0.25, brow_raise=0.05, gaze=0.15, blush=0.45),
    "disgusted": Expression(
        smile=-0.75,
        stretch=-0.06,
        gain=0.9,
        teeth=0.5,
        brow_raise=-0.11,
        brow_tilt=-0.35,
        lids=0.68,
        squint=0.85,
        gaze=0.30,
        blush=0.0,
        frown=0.9,
    ),
}
"""Expressions by emotion, after the action units of FACS (Ekman and Friesen).

6+12 happy, 1+4+15 sad, 4+5+7+23 angry, 1+2+5+26 surprised, 1+2+4+5+20 fearful, 12 weakly calm, 9+15+16 disgusted.
"""
