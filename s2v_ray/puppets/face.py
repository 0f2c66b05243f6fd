"""Puppet faces: drawn with OpenCV from an identity, an emotion and the shape of the mouth.

A face is drawn in its own coordinates: the origin lies between the eyes, the unit is the distance of the eyes, y points
down. The five reference points are those of the ArcFace template (Deng et al. 2019), so that an aligned crop of a
puppet is framed like one of a person. ``hair.py`` draws what grows on or hangs from the head.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from s2v_ray.puppets import hair
from s2v_ray.puppets.pen import Colour, Pen, Pose, arc, between, curve, mix

LANDMARKS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.571], [-0.414, 1.154], [0.414, 1.154]])
"""Eyes, nose, mouth corners at rest, in face coordinates."""

MAX_OPENING = 0.5
"""Inner height of the widest mouth, in distances of the eyes: ``opening`` 1."""

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
    (178, 212, 226), (240, 208, 178), (196, 220, 186), (224, 196, 222), (244, 226, 160), (176, 196, 238), (238, 190, 186), (190, 226, 214),
)  # fmt: skip
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
_INK: Colour = (52, 34, 36)
_WHITE: Colour = (252, 252, 250)
_SIDES = (-1.0, 1.0)

_ANGLES = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
_S = np.linspace(-1.0, 1.0, 21)  # along a lid or a lip, from left to right
_BOW = (1.0 - _S**2).clip(0.0)
_CUPID = 1.0 - 0.28 * np.exp(-((_S / 0.2) ** 2))  # the dent of the upper lip
_T = np.linspace(-1.0, 1.0, 11)  # along a brow, from the inner end to the outer


@dataclass(frozen=True)
class Face:
    """How one puppet looks, whatever the emotion. Lengths in distances of the eyes."""

    skin: Colour
    eyes: Colour
    background: Colour
    shirt: Colour
    hair: hair.Hair
    half_width: float
    chin: float
    jaw: float
    """Squareness of the jaw: the exponent of its superellipse, 2 is an ellipse."""
    eye_size: float
    eye_slant: float
    brow: float
    """Thickness of the brows."""
    nose: int
    nose_size: float
    lips: float
    """Fullness."""
    ears: float
    lashes: bool
    freckles: bool
    glasses: int
    """0 none, 1 round, 2 square."""

    @classmethod
    def from_traits(cls, traits: Mapping[str, float]) -> Face:
        """A face from an identity's traits. A big build is a broad jaw, heavy brows and small eyes."""
        build = traits["build"]
        skin = _pick(_SKINS, traits["skin"])
        return cls(
            skin=skin,
            eyes=_pick(_EYES, traits["eyes"]),
            background=_pick(_BACKGROUNDS, traits["background"]),
            shirt=_pick(_SHIRTS, traits["shirt"]),
            hair=hair.Hair.from_traits(traits, skin),
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


@dataclass(frozen=True)
class Expression:
    """What an emotion does to any face. 0 everywhere is neutral."""

    smile: float = 0.0
    """Corners of the mouth up (+) or down (-)."""
    stretch: float = 0.0
    """Mouth wider (+) or narrower (-)."""
    pout: float = 0.0
    """Lips rounded."""
    part: float = 0.0
    """Opening of the resting mouth."""
    gain: float = 1.0
    """Factor on the opening of speech."""
    teeth: float = 0.0
    brow_raise: float = 0.0
    brow_tilt: float = 0.0
    """Inner ends of the brows up (+) or down (-)."""
    lids: float = 1.0
    """Opening of the upper lids."""
    squint: float = 0.0
    """Lower lids raised."""
    lid_slant: float = 0.0
    """Upper lids fall to the outside (+) or to the inside (-)."""
    iris: float = 1.0
    gaze: float = 0.0
    blush: float = 0.35
    frown: float = 0.0
    """Folds between the brows."""

    def scaled(self, strength: float) -> Expression:
        """The same expression, weaker or stronger than it is at 1."""
        calm = Expression()
        return replace(self, **{k: getattr(calm, k) + strength * (v - getattr(calm, k)) for k, v in vars(self).items()})


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
}
"""After the action units of Ekman and Friesen's FACS: 6+12 happy, 1+4+15 sad, 4+5+7+23 angry, 1+2+5+26 surprised, 1+2+4+5+20 fearful."""


@dataclass(frozen=True)
class Moment:
    """What changes from frame to frame."""

    opening: float
    """Inner height of the mouth, 0..1."""
    width: float = 0.0
    rounding: float = 0.0
    tuck: float = 0.0
    blink: float = 0.0
    gaze: float = 0.0
    yaw: float = 0.0


def rest_landmarks(pose: Pose) -> np.ndarray:
    """Five points float64 ``[5, 2]``, pixels of the video: eyes, nose and mouth corners, as seen from left to right.

    They follow the pose of the head alone. The mouth corners are where they lie at rest, whatever the mouth says or
    the emotion shows, so that aligning a clip to its landmarks cannot cancel the motion of the mouth.
    """
    return pose.place(LANDMARKS)


def draw(face: Face, expression: Expression, moment: Moment, pose: Pose, size: int) -> np.ndarray:
    """One frame, uint8 ``[size, size, 3]`` RGB: drawn at twice the size, then averaged."""
    pen = Pen(pose)
    turn = -0.07 * moment.yaw  # the outline turns against the features
    head = _head_outline(face, moment.opening)
    pen.shift(turn)
    hair.draw_back(pen, face.hair, face.half_width)
    pen.shift(0.0)
    _body(pen, face)
    pen.shift(turn)
    _ears(pen, face)
    pen.fill(head * (1.012, 1.008), mix(face.skin, _INK, 0.42))
    pen.fill(head * (0.988, 0.992), face.skin)
    hair.draw_beard(pen, face.hair, head, face.skin)
    pen.shift(0.0)
    _cheeks(pen, face, expression)
    _nose(pen, face)
    for side in _SIDES:
        _eye(pen, face, expression, moment, side)
    _mouth(pen, face, expression, moment)
    hair.draw_moustache(pen, face.hair, expression.smile)
    pen.shift(turn)
    hair.draw_front(pen, face.hair, face.half_width)
    pen.shift(0.0)
    for side in _SIDES:
        _brow(pen, face, expression, side)
    if expression.frown > 0.0:
        _folds(pen, face, expression.frown)
    _glasses(pen, face)
    return pen.picture(_background(face.background, 2 * size))


def _pick(items: tuple[Colour, ...], trait: float) -> Colour:
    return items[int(trait * len(items))]


@functools.lru_cache(maxsize=8)
def _background(colour: Colour, side: int) -> np.ndarray:
    image = np.full((side, side, 3), colour, np.uint8)
    for radius, share in ((0.66, 0.16), (0.50, 0.30), (0.36, 0.44)):
        cv2.circle(
            image, (side // 2, round(side * 0.44)), round(side * radius), mix(colour, _WHITE, share), -1, cv2.LINE_AA
        )
    return image


@functools.lru_cache(maxsize=8)
def _closed_outline(half_width: float, jaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Outline of a head whose halves above and below are 1 high, and where it belongs to the jaw."""
    c, s = np.cos(_ANGLES), np.sin(_ANGLES)
    down = s > 0.0
    power = np.where(down, 2.0 / jaw, 2.0 / 2.15)
    x = half_width * np.sign(c) * np.abs(c) ** power * np.where(down, 1.0 - 0.16 * s**2, 1.0)  # narrower at the chin
    return curve(x, np.sign(s) * np.abs(s) ** power), down


def _head_outline(face: Face, opening: float) -> np.ndarray:
    """Half an ellipse above, a superellipse for the jaw, which drops with the mouth; ``[72, 2]``."""
    outline, down = _closed_outline(face.half_width, face.jaw)
    return curve(outline[:, 0], 0.12 + outline[:, 1] * np.where(down, face.chin + 0.13 * opening - 0.12, 1.42))


_NECK = np.array([[-0.46, 1.2], [0.46, 1.2], [0.52, 3.0], [-0.52, 3.0]])
_SHOULDERS = np.array(
    [
        [-0.62, 2.12],
        [-1.25, 2.28],
        [-1.85, 2.62],
        [-2.1, 4.0],
        [2.1, 4.0],
        [1.85, 2.62],
        [1.25, 2.28],
        [0.62, 2.12],
        [0.0, 2.5],
    ]
)
_COLLAR = np.array([[-0.62, 2.12], [0.0, 2.5], [0.62, 2.12]])


def _body(pen: Pen, face: Face) -> None:
    pen.fill(_NECK, mix(face.skin, _INK, 0.20))
    pen.fill(_SHOULDERS, face.shirt)
    pen.line(_COLLAR, mix(face.shirt, _INK, 0.35), 0.05)


def _ears(pen: Pen, face: Face) -> None:
    e = face.ears
    for side in _SIDES:
        x = side * (face.half_width + 0.02)
        pen.ellipse(x, 0.30, 0.21 * e, 0.32 * e, mix(face.skin, _INK, 0.42))
        pen.ellipse(x, 0.30, 0.185 * e, 0.295 * e, face.skin)
        pen.ellipse(x + side * 0.03, 0.30, 0.09 * e, 0.17 * e, mix(face.skin, (190, 80, 70), 0.30))


def _cheeks(pen: Pen, face: Face, expression: Expression) -> None:
    lift = 0.06 * max(expression.smile, 0.0)
    for side in _SIDES:
        for radius, share in ((0.27, 0.10), (0.21, 0.20), (0.14, 0.30)):
            pen.ellipse(
                side * 0.74,
                0.62 - lift,
                radius,
                radius * 0.78,
                mix(face.skin, (236, 92, 88), share * expression.blush + 0.02),
            )
        if face.freckles:
            for x, y in ((0.58, 0.50), (0.72, 0.56), (0.86, 0.49), (0.66, 0.68), (0.82, 0.70)):
                pen.ellipse(side * x, y - lift, 0.026, 0.026, mix(face.skin, (120, 62, 34), 0.55))


def _nose(pen: Pen, face: Face) -> None:
    s, tip = face.nose_size, 0.571
    dark, light = mix(face.skin, (130, 50, 40), 0.42), mix(face.skin, _WHITE, 0.35)
    if face.nose == 0:  # button
        pen.ellipse(0.0, tip + 0.02, 0.15 * s, 0.115 * s, mix(face.skin, (214, 84, 74), 0.34))
        pen.ellipse(-0.04, tip - 0.02, 0.05 * s, 0.035 * s, light)
    elif face.nose == 1:  # long, drawn from one side
        pen.line(
            np.array([[0.03, 0.10], [0.10 * s, 0.42], [0.14 * s, 0.58], [0.02, 0.66], [-0.10 * s, 0.62]]), dark, 0.055
        )
    elif face.nose == 2:  # broad, with nostrils
        pen.fill(arc(0.0, tip + 0.04, 0.22 * s, 0.14 * s, 180.0, 360.0), mix(face.skin, dark, 0.35))
        pen.line(arc(0.0, tip + 0.02, 0.20 * s, 0.10 * s, 10.0, 170.0), dark, 0.05)
        for side in _SIDES:
            pen.ellipse(side * 0.09 * s, tip + 0.06, 0.035, 0.025, mix(dark, _INK, 0.5))
    else:  # a small upward curve
        pen.line(arc(0.0, tip - 0.03, 0.12 * s, 0.11 * s, 15.0, 165.0), dark, 0.06)


def _eye(pen: Pen, face: Face, expression: Expression, moment: Moment, side: float) -> None:
    rx, ry = 0.25 * face.eye_size, 0.20 * face.eye_size
    dome, outside = np.sqrt(_BOW), _S * side
    tilt = -face.eye_slant * rx * outside
    open_ = expression.lids * (1.0 - moment.blink)
    lower = ry * (0.92 - 0.75 * expression.squint * (1.0 - 0.5 * moment.blink)) * dome + tilt
    upper = tilt - ry * dome * (
        min(max(open_ * 1.9 - 0.9, -0.9), 1.6) - expression.lid_slant * 0.55 * min(open_, 1.0) * outside
    )
    upper = np.minimum(upper, lower)
    x = side * 0.5 + rx * _S

    def disc(cx: float, cy: float, radius: float, colour: Colour) -> None:
        """A disc cut off by the lids."""
        points = arc(cx, cy, radius, radius)
        points[:, 1] = points[:, 1].clip(np.interp(points[:, 0], x, upper), np.interp(points[:, 0], x, lower))
        pen.fill(points, colour)

    if (lower - upper).max() > 0.03:
        pen.fill(between(x, upper, lower), _WHITE)
        cx, cy = side * 0.48 + 0.05 * moment.gaze, ry * (0.10 + 0.3 * expression.gaze)
        radius = 0.155 * face.eye_size * (0.55 + 0.45 * expression.iris)
        disc(cx, cy, radius, mix(face.eyes, _INK, 0.35))
        disc(cx, cy, radius * 0.84, face.eyes)
        disc(cx, cy, radius * 0.52 * expression.iris, (24, 18, 20))
        disc(cx - 0.05, cy - 0.055, 0.048, _WHITE)
        pen.line(curve(x, lower)[2:-2], mix(face.skin, _INK, 0.35), 0.03)
    lid = curve(x, upper)
    pen.line(lid, _INK, 0.065)
    if face.lashes:
        tip, before = (lid[0], lid[2]) if side < 0 else (lid[-1], lid[-3])
        pen.line(np.stack([before, tip + (side * 0.10, -0.10)]), _INK, 0.045)
        pen.line(np.stack([tip, tip + (side * 0.11, -0.02)]), _INK, 0.04)


def _brow(pen: Pen, face: Face, expression: Expression, side: float) -> None:
    x = side * (0.52 + 0.34 * _T - 0.05 * max(-expression.brow_tilt, 0.0))
    arch = 0.10 * (1.0 - _T**2) * (1.0 + 2.0 * expression.brow_raise)
    y = -0.40 - 0.06 * face.eye_size - expression.brow_raise - arch - 0.30 * expression.brow_tilt * (0.15 - 0.5 * _T)
    thick = face.brow * (1.05 - 0.55 * _T.clip(0.0))
    pen.fill(between(x, y - thick, y + thick), face.hair.brow)


def _folds(pen: Pen, face: Face, strength: float) -> None:
    for side in _SIDES:
        pen.line(
            np.array([[side * 0.07, -0.36], [side * 0.05, -0.20]]),
            mix(face.skin, _INK, 0.45 * min(strength, 1.0)),
            0.045,
        )


def _mouth(pen: Pen, face: Face, expression: Expression, moment: Moment) -> None:
    gap = MAX_OPENING * moment.opening
    rounding = max(moment.rounding, expression.pout * min(1.0, 3.0 * moment.opening))
    half = (
        0.414
        * (1.0 + 0.16 * moment.width + expression.stretch)
        * (1.0 - 0.18 * rounding)
        * (1.0 - 0.10 * moment.opening)
    )
    middle = 1.154 - 0.17 * expression.smile * (_S**2 - 0.35)
    inner = _BOW ** (0.62 - 0.12 * rounding)
    upper, lower = middle - 0.28 * gap * inner, middle + 0.72 * gap * inner
    full = face.lips * (1.0 + 0.25 * rounding)
    top = upper - full * _BOW**0.7 * _CUPID
    bottom = lower + full * 1.25 * (1.0 - 0.7 * moment.tuck) * _BOW**0.6
    x_out, x_in = half * _S, half * 0.90 * _S
    lip = mix(face.skin, (196, 54, 66), 0.52 if face.lashes else 0.36)
    pen.fill(between(x_out, top, bottom), mix(lip, _INK, 0.10))
    pen.fill(between(x_out, lower, bottom), lip)
    if gap > 0.012:
        pen.fill(between(x_in, upper, lower), (92, 22, 30))
        pen.fill(between(x_in, np.maximum(lower - 0.42 * gap * _BOW**1.5, upper), lower), (222, 96, 100))
        bite = (0.045 + 0.05 * max(expression.teeth, moment.tuck)) * _BOW**0.35
        pen.fill(between(x_in, upper, np.minimum(upper + bite, lower)), _WHITE)
    else:
        pen.line(curve(x_out, middle), mix(lip, _INK, 0.75), 0.05)
    for corner in (0, -1):
        pen.line(
            np.array(
                [[x_out[corner], middle[corner]], [x_out[corner] * 1.06, middle[corner] - 0.045 * expression.smile]]
            ),
            mix(lip, _INK, 0.6),
            0.05,
        )


_SQUARE_LENS = np.array([[0.14, -0.28], [0.92, -0.28], [0.88, 0.30], [0.20, 0.30], [0.14, -0.28]])


def _glasses(pen: Pen, face: Face) -> None:
    if not face.glasses:
        return
    frame = (48, 44, 58) if face.glasses == 1 else (150, 52, 48)
    for side in _SIDES:
        pen.line(arc(side * 0.52, 0.03, 0.40, 0.38) if face.glasses == 1 else _SQUARE_LENS * (side, 1.0), frame, 0.06)
        pen.line(np.array([[side * 0.92, -0.05], [side * face.half_width, 0.02]]), frame, 0.05)
    pen.line(np.array([[-0.13, -0.04], [0.0, -0.08], [0.13, -0.04]]), frame, 0.06)
