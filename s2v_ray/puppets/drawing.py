"""Drawing of puppets with OpenCV, from a face, an expression and the state of one frame.

Faces are drawn in face coordinates: the origin lies between the eyes, the unit is the distance of the eyes, y
points down. The
five reference points are those of the ArcFace template (Deng et al. 2019), so that the aligned crop of a puppet
shows the same part as that of a real face. ``hair`` draws hair, beards and hats.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from s2v_ray.puppets import hair
from s2v_ray.puppets.canvas import Canvas, Colour, Pose, arc, between, curve, mix
from s2v_ray.puppets.expression import Expression
from s2v_ray.puppets.face import Face

LANDMARKS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.571], [-0.414, 1.154], [0.414, 1.154]])
"""Eyes, nose and corners of the resting mouth, in face coordinates."""

MAX_OPENING = 0.5
"""Inner height of the fully open mouth (``opening`` 1), in distances of the eyes."""

_INK: Colour = (52, 34, 36)
_WHITE: Colour = (252, 252, 250)
_SIDES = (-1.0, 1.0)
_NOSE_TIP = 0.571

_ANGLES = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
_ACROSS = np.linspace(-1.0, 1.0, 21)  # x along a lid or a lip, from left to right
_ARCH = (1.0 - _ACROSS**2).clip(0.0)
_CUPID_BOW = 1.0 - 0.28 * np.exp(-((_ACROSS / 0.2) ** 2))  # the dip of the upper lip
_ALONG = np.linspace(-1.0, 1.0, 11)  # along a brow, from the inner to the outer end


@dataclass(frozen=True)
class FrameState:
    """Values that change from frame to frame.

    Attributes:
        opening: inner height of the mouth, 0..1.
        width: spreading of the lips, -1..1.
        rounding: of the lips, 0..1.
        tuck: lower lip under the teeth, 0..1.
        blink: closing of the eyes, 0..1.
        gaze: horizontal direction of the gaze, -1..1.
        yaw: turn of the head, -1..1.
    """

    opening: float
    width: float = 0.0
    rounding: float = 0.0
    tuck: float = 0.0
    blink: float = 0.0
    gaze: float = 0.0
    yaw: float = 0.0


def rest_landmarks(pose: Pose) -> np.ndarray:
    """Returns float64 ``[5, 2]``, pixels of the video: eyes, nose and mouth corners, each from left to right.

    They depend on the pose of the head only. The mouth corners are those of the resting mouth, so that aligning a
    clip by its landmarks does not cancel the motion of the mouth.
    """
    return pose.place(LANDMARKS)


def draw(face: Face, expression: Expression, state: FrameState, pose: Pose, size: int) -> np.ndarray:
    """Draws one frame, uint8 ``[size, size, 3]`` RGB, at twice the size, and averages it."""
    canvas = Canvas(pose)
    turn = -0.07 * state.yaw  # the outline moves in the opposite direction of the features
    head = _head_outline(face, state.opening)
    canvas.set_offset(turn)
    hair.draw_back(canvas, face.hair, face.half_width)
    canvas.set_offset(0.0)
    _body(canvas, face)
    canvas.set_offset(turn)
    _ears(canvas, face)
    canvas.fill(head * (1.012, 1.008), mix(face.skin, _INK, 0.42))
    canvas.fill(head * (0.988, 0.992), face.skin)
    hair.draw_beard(canvas, face.hair, head, face.skin)
    canvas.set_offset(0.0)
    _cheeks(canvas, face, expression)
    _nose(canvas, face)
    for side in _SIDES:
        _eye(canvas, face, expression, state, side)
    _mouth(canvas, face, expression, state)
    hair.draw_moustache(canvas, face.hair, expression.smile)
    canvas.set_offset(turn)
    hair.draw_front(canvas, face.hair, face.half_width)
    canvas.set_offset(0.0)
    for side in _SIDES:
        _brow(canvas, face, expression, side)
    if expression.frown > 0.0:
        _folds(canvas, face, expression.frown)
    _glasses(canvas, face)
    return canvas.render(_background(face.background, 2 * size))


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
    """Returns the outline of a head whose halves are 1 high, and which of its points belong to the jaw."""
    c, s = np.cos(_ANGLES), np.sin(_ANGLES)
    down = s > 0.0
    power = np.where(down, 2.0 / jaw, 2.0 / 2.15)
    x = half_width * np.sign(c) * np.abs(c) ** power * np.where(down, 1.0 - 0.16 * s**2, 1.0)  # narrower at the chin
    return curve(x, np.sign(s) * np.abs(s) ** power), down


def _head_outline(face: Face, opening: float) -> np.ndarray:
    """Returns ``[72, 2]``: half an ellipse above, and a superellipse for the jaw, which moves down with the mouth."""
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


def _body(canvas: Canvas, face: Face) -> None:
    canvas.fill(_NECK, mix(face.skin, _INK, 0.20))
    canvas.fill(_SHOULDERS, face.shirt)
    canvas.line(_COLLAR, mix(face.shirt, _INK, 0.35), 0.05)


def _ears(canvas: Canvas, face: Face) -> None:
    e = face.ears
    for side in _SIDES:
        x = side * (face.half_width + 0.02)
        canvas.ellipse(x, 0.30, 0.21 * e, 0.32 * e, mix(face.skin, _INK, 0.42))
        canvas.ellipse(x, 0.30, 0.185 * e, 0.295 * e, face.skin)
        canvas.ellipse(x + side * 0.03, 0.30, 0.09 * e, 0.17 * e, mix(face.skin, (190, 80, 70), 0.30))


def _cheeks(canvas: Canvas, face: Face, expression: Expression) -> None:
    lift = 0.06 * max(expression.smile, 0.0)
    for side in _SIDES:
        for radius, share in ((0.27, 0.10), (0.21, 0.20), (0.14, 0.30)):
            canvas.ellipse(
                side * 0.74,
                0.62 - lift,
                radius,
                radius * 0.78,
                mix(face.skin, (236, 92, 88), share * expression.blush + 0.02),
            )
        if face.freckles:
            for x, y in ((0.58, 0.50), (0.72, 0.56), (0.86, 0.49), (0.66, 0.68), (0.82, 0.70)):
                canvas.ellipse(side * x, y - lift, 0.026, 0.026, mix(face.skin, (120, 62, 34), 0.55))


def _nose(canvas: Canvas, face: Face) -> None:
    _NOSES[face.nose](canvas, face, mix(face.skin, (130, 50, 40), 0.42))


def _button_nose(canvas: Canvas, face: Face, _dark: Colour) -> None:
    s = face.nose_size
    canvas.ellipse(0.0, _NOSE_TIP + 0.02, 0.15 * s, 0.115 * s, mix(face.skin, (214, 84, 74), 0.34))
    canvas.ellipse(-0.04, _NOSE_TIP - 0.02, 0.05 * s, 0.035 * s, mix(face.skin, _WHITE, 0.35))


def _long_nose(canvas: Canvas, face: Face, dark: Colour) -> None:
    s = face.nose_size
    outline = np.array([[0.03, 0.10], [0.10 * s, 0.42], [0.14 * s, 0.58], [0.02, 0.66], [-0.10 * s, 0.62]])
    canvas.line(outline, dark, 0.055)


def _broad_nose(canvas: Canvas, face: Face, dark: Colour) -> None:
    s = face.nose_size
    canvas.fill(arc(0.0, _NOSE_TIP + 0.04, 0.22 * s, 0.14 * s, 180.0, 360.0), mix(face.skin, dark, 0.35))
    canvas.line(arc(0.0, _NOSE_TIP + 0.02, 0.20 * s, 0.10 * s, 10.0, 170.0), dark, 0.05)
    for side in _SIDES:
        canvas.ellipse(side * 0.09 * s, _NOSE_TIP + 0.06, 0.035, 0.025, mix(dark, _INK, 0.5))


def _small_nose(canvas: Canvas, face: Face, dark: Colour) -> None:
    s = face.nose_size
    canvas.line(arc(0.0, _NOSE_TIP - 0.03, 0.12 * s, 0.11 * s, 15.0, 165.0), dark, 0.06)


_NOSES = (_button_nose, _long_nose, _broad_nose, _small_nose)
"""Drawing functions by ``Face.nose``."""


def _eye(canvas: Canvas, face: Face, expression: Expression, state: FrameState, side: float) -> None:
    rx, ry = 0.25 * face.eye_size, 0.20 * face.eye_size
    dome, outside = np.sqrt(_ARCH), _ACROSS * side
    tilt = -face.eye_slant * rx * outside
    open_ = expression.lids * (1.0 - state.blink)
    lower = ry * (0.92 - 0.75 * expression.squint * (1.0 - 0.5 * state.blink)) * dome + tilt
    upper = tilt - ry * dome * (
        min(max(open_ * 1.9 - 0.9, -0.9), 1.6) - expression.lid_slant * 0.55 * min(open_, 1.0) * outside
    )
    upper = np.minimum(upper, lower)
    x = side * 0.5 + rx * _ACROSS

    def disc(cx: float, cy: float, radius: float, colour: Colour) -> None:
        """Draws a disc that is clipped by the lids."""
        points = arc(cx, cy, radius, radius)
        points[:, 1] = points[:, 1].clip(np.interp(points[:, 0], x, upper), np.interp(points[:, 0], x, lower))
        canvas.fill(points, colour)

    if (lower - upper).max() > 0.03:
        canvas.fill(between(x, upper, lower), _WHITE)
        cx, cy = side * 0.48 + 0.05 * state.gaze, ry * (0.10 + 0.3 * expression.gaze)
        radius = 0.155 * face.eye_size * (0.55 + 0.45 * expression.iris)
        disc(cx, cy, radius, mix(face.eyes, _INK, 0.35))
        disc(cx, cy, radius * 0.84, face.eyes)
        disc(cx, cy, radius * 0.52 * expression.iris, (24, 18, 20))
        disc(cx - 0.05, cy - 0.055, 0.048, _WHITE)
        canvas.line(curve(x, lower)[2:-2], mix(face.skin, _INK, 0.35), 0.03)
    lid = curve(x, upper)
    canvas.line(lid, _INK, 0.065)
    if face.lashes:
        tip, before = (lid[0], lid[2]) if side < 0 else (lid[-1], lid[-3])
        canvas.line(np.stack([before, tip + (side * 0.10, -0.10)]), _INK, 0.045)
        canvas.line(np.stack([tip, tip + (side * 0.11, -0.02)]), _INK, 0.04)


def _brow(canvas: Canvas, face: Face, expression: Expression, side: float) -> None:
    x = side * (0.52 + 0.34 * _ALONG - 0.05 * max(-expression.brow_tilt, 0.0))
    arch = 0.10 * (1.0 - _ALONG**2) * (1.0 + 2.0 * expression.brow_raise)
    y = (
        -0.40
        - 0.06 * face.eye_size
        - expression.brow_raise
        - arch
        - 0.30 * expression.brow_tilt * (0.15 - 0.5 * _ALONG)
    )
    thick = face.brow * (1.05 - 0.55 * _ALONG.clip(0.0))
    canvas.fill(between(x, y - thick, y + thick), face.hair.brow)


def _folds(canvas: Canvas, face: Face, strength: float) -> None:
    for side in _SIDES:
        canvas.line(
            np.array([[side * 0.07, -0.36], [side * 0.05, -0.20]]),
            mix(face.skin, _INK, 0.45 * min(strength, 1.0)),
            0.045,
        )


def _mouth(canvas: Canvas, face: Face, expression: Expression, state: FrameState) -> None:
    gap = MAX_OPENING * state.opening
    rounding = max(state.rounding, expression.pout * min(1.0, 3.0 * state.opening))
    half = (
        0.414 * (1.0 + 0.16 * state.width + expression.stretch) * (1.0 - 0.18 * rounding) * (1.0 - 0.10 * state.opening)
    )
    middle = 1.154 - 0.17 * expression.smile * (_ACROSS**2 - 0.35)
    inner = _ARCH ** (0.62 - 0.12 * rounding)
    upper, lower = middle - 0.28 * gap * inner, middle + 0.72 * gap * inner
    full = face.lips * (1.0 + 0.25 * rounding)
    top = upper - full * _ARCH**0.7 * _CUPID_BOW
    bottom = lower + full * 1.25 * (1.0 - 0.7 * state.tuck) * _ARCH**0.6
    x_out, x_in = half * _ACROSS, half * 0.90 * _ACROSS
    lip = mix(face.skin, (196, 54, 66), 0.52 if face.lashes else 0.36)
    canvas.fill(between(x_out, top, bottom), mix(lip, _INK, 0.10))
    canvas.fill(between(x_out, lower, bottom), lip)
    if gap > 0.012:
        canvas.fill(between(x_in, upper, lower), (92, 22, 30))
        canvas.fill(between(x_in, np.maximum(lower - 0.42 * gap * _ARCH**1.5, upper), lower), (222, 96, 100))
        bite = (0.045 + 0.05 * max(expression.teeth, state.tuck)) * _ARCH**0.35
        canvas.fill(between(x_in, upper, np.minimum(upper + bite, lower)), _WHITE)
    else:
        canvas.line(curve(x_out, middle), mix(lip, _INK, 0.75), 0.05)
    for corner in (0, -1):
        canvas.line(
            np.array(
                [[x_out[corner], middle[corner]], [x_out[corner] * 1.06, middle[corner] - 0.045 * expression.smile]]
            ),
            mix(lip, _INK, 0.6),
            0.05,
        )


_SQUARE_LENS = np.array([[0.14, -0.28], [0.92, -0.28], [0.88, 0.30], [0.20, 0.30], [0.14, -0.28]])


def _glasses(canvas: Canvas, face: Face) -> None:
    if not face.glasses:
        return
    frame = (48, 44, 58) if face.glasses == 1 else (150, 52, 48)
    for side in _SIDES:
        canvas.line(
            arc(side * 0.52, 0.03, 0.40, 0.38) if face.glasses == 1 else _SQUARE_LENS * (side, 1.0), frame, 0.06
        )
        canvas.line(np.array([[side * 0.92, -0.05], [side * face.half_width, 0.02]]), frame, 0.05)
    canvas.line(np.array([[-0.13, -0.04], [0.0, -0.08], [0.13, -0.04]]), frame, 0.06)
