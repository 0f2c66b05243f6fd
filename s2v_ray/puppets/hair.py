"""Hair, beards and hats of the puppets, in face coordinates (see ``face.py``)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from s2v_ray.puppets.pen import Colour, Pen, arc, between, curve, mix

STYLES = ("crop", "bob", "side", "long", "spiky", "bun", "afro", "bald", "tails", "beanie", "waves", "quiff")
_COLOURS: tuple[Colour, ...] = (
    (46, 34, 32), (92, 56, 32), (152, 92, 44), (222, 178, 96), (176, 74, 34), (148, 148, 152), (30, 28, 38), (196, 120, 150), (70, 96, 140),
)  # fmt: skip
_BLACK: Colour = (20, 14, 16)
_HATS: tuple[Colour, ...] = ((190, 70, 64), (58, 104, 150), (70, 130, 92), (222, 156, 60))
_TOP = -1.30  # top of the head
_S = np.sin(
    np.linspace(-np.pi / 2, np.pi / 2, 41)
)  # across the head; denser at the temples, where the outline is steep


@dataclass(frozen=True)
class Hair:
    """Style (of ``STYLES``), colours, and beard: 0 none, 1 moustache, 2 stubble, 3 full."""

    style: str
    colour: Colour
    brow: Colour
    hat: Colour
    beard: int

    @classmethod
    def from_traits(cls, traits: Mapping[str, float], skin: Colour) -> Hair:
        colour = _COLOURS[int(traits["hair"] * len(_COLOURS))]
        brow = mix(colour, _BLACK, 0.35)
        if sum(abs(a - b) for a, b in zip(brow, skin, strict=True)) < 160:
            brow = mix(brow, _BLACK, 0.6)  # brows carry the emotion: they must stand out from the skin
        beard = 0 if traits["build"] < 0.55 else int(traits["beard"] * 4)
        return cls(
            STYLES[int(traits["style"] * len(STYLES))], colour, brow, _HATS[int(traits["hat"] * len(_HATS))], beard
        )


def draw_back(pen: Pen, hair: Hair, w: float) -> None:
    """What lies behind the head of half-width ``w``."""
    dark = mix(hair.colour, _BLACK, 0.25)
    if hair.style == "bob":
        pen.fill(_curtain(w + 0.26, 1.35, 1.10), dark)
    elif hair.style == "long":
        pen.fill(_curtain(w + 0.24, 2.75, 1.02), dark)
    elif hair.style == "waves":
        pen.fill(_curtain(w + 0.16, 0.6, 1.05), dark)
        for y, r in ((0.0, 0.50), (0.55, 0.50), (1.1, 0.48), (1.65, 0.44)):
            for side in (-1.0, 1.0):
                pen.ellipse(side * (w - 0.02 + 0.05 * (y > 0.3)), y, r, r, dark)
    elif hair.style == "afro":
        for angle in np.radians(np.arange(155, 400, 22)):
            pen.ellipse((w + 0.10) * np.cos(angle), -0.30 + 1.15 * np.sin(angle), 0.44, 0.44, hair.colour)
    elif hair.style == "bun":
        pen.ellipse(0.0, _TOP - 0.22, 0.44, 0.38, dark)
        pen.ellipse(0.0, _TOP - 0.24, 0.38, 0.32, hair.colour)
    elif hair.style == "tails":
        for side in (-1.0, 1.0):
            pen.ellipse(side * (w + 0.34), 0.72, 0.34, 0.95, hair.colour)
            pen.ellipse(side * (w + 0.12), -0.12, 0.15, 0.15, hair.hat)


_HAIRLINES = {
    "crop": -0.86 + 0.50 * _S**6,
    "bob": -0.84 + 0.90 * _S**8,
    "side": -0.88 - 0.20 * _S + 0.55 * np.abs(_S + 0.12) ** 5,
    "long": -1.02 + 0.95 * np.abs(_S) ** 2.4,
    "spiky": -0.88 + 0.50 * _S**6,
    "bun": -0.98 + 0.60 * _S**4,
    "afro": -0.86 + 0.75 * _S**6,
    "tails": -1.02 + 0.85 * np.abs(_S) ** 1.8,
    "waves": -0.98 + 0.50 * np.abs(_S + 0.25) ** 2.0,
    "quiff": -0.88 + 0.42 * _S**6,
    "beanie": -0.84 + 0.05 * _S**2,
}
"""Where the hair ends on the forehead, over ``_S``."""


def draw_front(pen: Pen, hair: Hair, w: float) -> None:
    """What lies over the forehead."""
    light = mix(hair.colour, (255, 255, 255), 0.16)
    if hair.style == "bald":
        pen.ellipse(-0.35, -0.92, 0.26, 0.11, (255, 244, 232))
        return
    if hair.style == "beanie":
        for side in (-1.0, 1.0):
            pen.fill(np.array([[side * w, -0.66], [side * w * 0.84, -0.66], [side * w * 0.97, 0.05]]), hair.colour)
        pen.fill(_cap(w, hair.style, 0.12), hair.hat)
        pen.fill(
            between((w + 0.06) * _S, -1.02 + 0.13 * _S**2, -0.74 + 0.16 * _S**2), mix(hair.hat, (255, 255, 255), 0.28)
        )
        pen.ellipse(0.0, _TOP - 0.24, 0.24, 0.22, mix(hair.hat, (255, 255, 255), 0.45))
        return
    pen.fill(_cap(w, hair.style, 0.09), hair.colour)
    if hair.style == "spiky":
        for x in np.linspace(-0.78, 0.78, 7):
            y = _TOP * np.sqrt(1.0 - 0.8 * x**2)
            pen.fill(
                np.array([[w * x - 0.26, y + 0.26], [w * x * 1.15, y - 0.32], [w * x + 0.26, y + 0.26]]), hair.colour
            )
    elif hair.style == "quiff":
        pen.ellipse(0.12, -1.15, 0.82, 0.40, hair.colour)
        pen.line(arc(0.14, -1.08, 0.58, 0.26, 195.0, 320.0), light, 0.06)
    elif hair.style == "afro":
        for x in np.linspace(-0.85, 0.85, 6):
            pen.ellipse(w * x, -0.86 - 0.22 * (1.0 - x**2), 0.26, 0.20, hair.colour)
    if hair.style in ("bob", "long", "crop", "side", "bun", "tails", "waves"):
        pen.line(arc(-0.1, -0.66, 0.80 * w, 0.52, 215.0, 285.0), light, 0.07)


def draw_beard(pen: Pen, hair: Hair, head: np.ndarray, skin: Colour) -> None:
    """Stubble or a full beard along the jaw of the outline ``head`` ``[N, 2]``."""
    if hair.beard < 2:
        return
    jaw = head[head[:, 1] > 0.55]
    jaw = jaw[np.argsort(-jaw[:, 0])]
    inner = curve(jaw[:, 0] * 0.80, 0.86 - 0.27 * (jaw[:, 0] / jaw[:, 0].max()) ** 2)[::-1]
    grown = jaw + (0.0, 0.07 if hair.beard == 3 else -0.01)
    pen.fill(np.concatenate([grown, inner]), hair.brow if hair.beard == 3 else mix(skin, hair.brow, 0.22))
    if hair.beard == 3:
        pen.ellipse(0.0, 1.19, 0.54, 0.31, skin)


def draw_moustache(pen: Pen, hair: Hair, smile: float) -> None:
    if hair.beard != 1:
        return
    y = 0.88 + 0.10 * np.abs(_S) ** 1.5 - 0.06 * smile * _S**2
    thick = 0.09 * (1.0 - np.abs(_S) ** 2.5) * (0.7 + 0.5 * np.abs(_S))
    pen.fill(between(0.42 * _S, y - thick, y + 0.8 * thick), hair.brow)


def _curtain(width: float, bottom: float, flare: float) -> np.ndarray:
    """Hair that falls behind the head, down to ``bottom``."""
    top = arc(0.0, -0.10, width, -_TOP + 0.02, 180.0, 360.0)
    w = width * flare
    return np.concatenate(
        [top, np.array([[w, bottom - 0.2], [w * 0.9, bottom], [-w * 0.9, bottom], [-w, bottom - 0.2]])]
    )


@functools.lru_cache(maxsize=8)
def _cap(w: float, style: str, volume: float) -> np.ndarray:
    """Between the hairline and the crown, ``volume`` above the head of half-width ``w``."""
    line = _HAIRLINES[style]
    crown = 0.12 - (1.42 + volume) * (1.0 - np.abs(_S) ** 2.15).clip(0.0) ** (1.0 / 2.15)
    covered = crown < line - 0.03
    return between((w + 0.035) * _S[covered], crown[covered], line[covered])
