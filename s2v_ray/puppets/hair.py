"""Hair, beards and hats of the puppets, drawn in face coordinates (see ``drawing``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from s2v_ray.puppets.canvas import Canvas, Colour, arc, between, curve, mix

STYLES = ("crop", "bob", "side", "long", "spiky", "bun", "afro", "bald", "tails", "beanie", "waves", "quiff")
_COLOURS: tuple[Colour, ...] = (
    (46, 34, 32),
    (92, 56, 32),
    (152, 92, 44),
    (222, 178, 96),
    (176, 74, 34),
    (148, 148, 152),
    (30, 28, 38),
    (196, 120, 150),
    (70, 96, 140),
)
_BLACK: Colour = (20, 14, 16)
_WHITE: Colour = (255, 255, 255)
_HATS: tuple[Colour, ...] = ((190, 70, 64), (58, 104, 150), (70, 130, 92), (222, 156, 60))
_TOP = -1.30  # top of the head
_ACROSS = np.sin(
    np.linspace(-np.pi / 2, np.pi / 2, 41)
)  # x across the head; denser at the temples, where the outline is steep


@dataclass(frozen=True)
class Hair:
    """Hair of one puppet.

    Attributes:
        style: one of ``STYLES``.
        colour: of the hair.
        brow: colour of brows and beard.
        hat: colour of a hat or of hair ties.
        beard: 0 none, 1 moustache, 2 goatee, 3 full.
    """

    style: str
    colour: Colour
    brow: Colour
    hat: Colour
    beard: int

    @classmethod
    def from_traits(cls, traits: Mapping[str, float], skin: Colour) -> Hair:
        """Derives the hair from the traits of an identity."""
        colour = _COLOURS[int(traits["hair"] * len(_COLOURS))]
        brow = mix(colour, _BLACK, 0.35)
        if sum(abs(a - b) for a, b in zip(brow, skin, strict=True)) < 160:
            brow = mix(brow, _BLACK, 0.6)  # brows show the emotion, so their contrast to the skin has a minimum
        beard = 0 if traits["build"] < 0.55 else int(traits["beard"] * 4)
        return cls(
            STYLES[int(traits["style"] * len(STYLES))], colour, brow, _HATS[int(traits["hat"] * len(_HATS))], beard
        )


def draw_back(canvas: Canvas, hair: Hair, w: float) -> None:
    """Draws the hair behind a head of half-width ``w``."""
    if (draw := _BACKS.get(hair.style)) is not None:
        draw(canvas, hair, w)


def _dark(hair: Hair) -> Colour:
    return mix(hair.colour, _BLACK, 0.25)


def _bob_back(canvas: Canvas, hair: Hair, w: float) -> None:
    canvas.fill(_curtain(w + 0.26, 1.35, 1.10), _dark(hair))


def _long_back(canvas: Canvas, hair: Hair, w: float) -> None:
    canvas.fill(_curtain(w + 0.24, 2.75, 1.02), _dark(hair))


def _waves_back(canvas: Canvas, hair: Hair, w: float) -> None:
    canvas.fill(_curtain(w + 0.16, 0.6, 1.05), _dark(hair))
    for y, r in ((0.0, 0.50), (0.55, 0.50), (1.1, 0.48), (1.65, 0.44)):
        for side in (-1.0, 1.0):
            canvas.ellipse(side * (w - 0.02 + 0.05 * (y > 0.3)), y, r, r, _dark(hair))


def _afro_back(canvas: Canvas, hair: Hair, w: float) -> None:
    for angle in np.radians(np.arange(155, 400, 22)):
        canvas.ellipse((w + 0.10) * np.cos(angle), -0.30 + 1.15 * np.sin(angle), 0.44, 0.44, hair.colour)


def _bun_back(canvas: Canvas, hair: Hair, _w: float) -> None:
    canvas.ellipse(0.0, _TOP - 0.22, 0.44, 0.38, _dark(hair))
    canvas.ellipse(0.0, _TOP - 0.24, 0.38, 0.32, hair.colour)


def _tails_back(canvas: Canvas, hair: Hair, w: float) -> None:
    for side in (-1.0, 1.0):
        canvas.ellipse(side * (w + 0.34), 0.72, 0.34, 0.95, hair.colour)
        canvas.ellipse(side * (w + 0.12), -0.12, 0.15, 0.15, hair.hat)


_BACKS: dict[str, Callable[[Canvas, Hair, float], None]] = {
    "bob": _bob_back,
    "long": _long_back,
    "waves": _waves_back,
    "afro": _afro_back,
    "bun": _bun_back,
    "tails": _tails_back,
}


_HAIRLINES = {
    "crop": -0.86 + 0.50 * _ACROSS**6,
    "bob": -0.84 + 0.90 * _ACROSS**8,
    "side": -0.88 - 0.20 * _ACROSS + 0.55 * np.abs(_ACROSS + 0.12) ** 5,
    "long": -1.02 + 0.95 * np.abs(_ACROSS) ** 2.4,
    "spiky": -0.88 + 0.50 * _ACROSS**6,
    "bun": -0.98 + 0.60 * _ACROSS**4,
    "afro": -0.86 + 0.75 * _ACROSS**6,
    "tails": -1.02 + 0.85 * np.abs(_ACROSS) ** 1.8,
    "waves": -0.98 + 0.50 * np.abs(_ACROSS + 0.25) ** 2.0,
    "quiff": -0.88 + 0.42 * _ACROSS**6,
    "beanie": -0.84 + 0.05 * _ACROSS**2,
}
"""y of the hairline on the forehead, over ``_ACROSS``."""


_STRAND_STYLES = ("bob", "long", "crop", "side", "bun", "tails", "waves")


def draw_front(canvas: Canvas, hair: Hair, w: float) -> None:
    """Draws the hair or the hat over the forehead of a head of half-width ``w``."""
    if hair.style == "bald":
        canvas.ellipse(-0.35, -0.92, 0.26, 0.11, (255, 244, 232))
        return
    if hair.style == "beanie":
        _draw_beanie(canvas, hair, w)
        return
    canvas.fill(_cap(w, hair.style, 0.09), hair.colour)
    if (draw := _FRONTS.get(hair.style)) is not None:
        draw(canvas, hair, w)
    if hair.style in _STRAND_STYLES:
        canvas.line(arc(-0.1, -0.66, 0.80 * w, 0.52, 215.0, 285.0), _light(hair), 0.07)


def _light(hair: Hair) -> Colour:
    return mix(hair.colour, _WHITE, 0.16)


def _draw_beanie(canvas: Canvas, hair: Hair, w: float) -> None:
    for side in (-1.0, 1.0):
        canvas.fill(np.array([[side * w, -0.66], [side * w * 0.84, -0.66], [side * w * 0.97, 0.05]]), hair.colour)
    canvas.fill(_cap(w, hair.style, 0.12), hair.hat)
    brim = between((w + 0.06) * _ACROSS, -1.02 + 0.13 * _ACROSS**2, -0.74 + 0.16 * _ACROSS**2)
    canvas.fill(brim, mix(hair.hat, _WHITE, 0.28))
    canvas.ellipse(0.0, _TOP - 0.24, 0.24, 0.22, mix(hair.hat, _WHITE, 0.45))


def _spiky_front(canvas: Canvas, hair: Hair, w: float) -> None:
    for x in np.linspace(-0.78, 0.78, 7):
        y = _TOP * np.sqrt(1.0 - 0.8 * x**2)
        spike = np.array([[w * x - 0.26, y + 0.26], [w * x * 1.15, y - 0.32], [w * x + 0.26, y + 0.26]])
        canvas.fill(spike, hair.colour)


def _quiff_front(canvas: Canvas, hair: Hair, _w: float) -> None:
    canvas.ellipse(0.12, -1.15, 0.82, 0.40, hair.colour)
    canvas.line(arc(0.14, -1.08, 0.58, 0.26, 195.0, 320.0), _light(hair), 0.06)


def _afro_front(canvas: Canvas, hair: Hair, w: float) -> None:
    for x in np.linspace(-0.85, 0.85, 6):
        canvas.ellipse(w * x, -0.86 - 0.22 * (1.0 - x**2), 0.26, 0.20, hair.colour)


_FRONTS: dict[str, Callable[[Canvas, Hair, float], None]] = {
    "spiky": _spiky_front,
    "quiff": _quiff_front,
    "afro": _afro_front,
}


def draw_beard(canvas: Canvas, hair: Hair, head: np.ndarray, skin: Colour) -> None:
    """Draws a goatee, or a full beard along the jaw of the outline ``head`` ``[N, 2]``."""
    if hair.beard < 2:
        return
    jaw = head[head[:, 1] > 0.55]
    jaw = jaw[np.argsort(-jaw[:, 0])]
    if hair.beard == 2:
        x = 0.40 * _ACROSS
        chin = np.interp(x, jaw[::-1, 0], jaw[::-1, 1])
        canvas.fill(between(x, jaw[:, 1].max() - 0.44 + 0.20 * _ACROSS**2, chin + 0.06), hair.brow)
        return
    inner = curve(jaw[:, 0] * 0.80, 0.86 - 0.27 * (jaw[:, 0] / jaw[:, 0].max()) ** 2)[::-1]
    canvas.fill(np.concatenate([jaw + (0.0, 0.07), inner]), hair.brow)
    canvas.ellipse(0.0, 1.19, 0.54, 0.31, skin)


def draw_moustache(canvas: Canvas, hair: Hair, smile: float) -> None:
    """Draws a moustache that follows the smile."""
    if hair.beard != 1:
        return
    y = 0.88 + 0.10 * np.abs(_ACROSS) ** 1.5 - 0.06 * smile * _ACROSS**2
    thick = 0.09 * (1.0 - np.abs(_ACROSS) ** 2.5) * (0.7 + 0.5 * np.abs(_ACROSS))
    canvas.fill(between(0.42 * _ACROSS, y - thick, y + 0.8 * thick), hair.brow)


def _curtain(width: float, bottom: float, flare: float) -> np.ndarray:
    """Returns the outline of long hair behind the head, down to ``bottom``."""
    top = arc(0.0, -0.10, width, -_TOP + 0.02, 180.0, 360.0)
    w = width * flare
    return np.concatenate(
        [top, np.array([[w, bottom - 0.2], [w * 0.9, bottom], [-w * 0.9, bottom], [-w, bottom - 0.2]])]
    )


@functools.lru_cache(maxsize=8)
def _cap(w: float, style: str, volume: float) -> np.ndarray:
    """Returns the area between the hairline and the crown, ``volume`` above a head of half-width ``w``."""
    line = _HAIRLINES[style]
    crown = 0.12 - (1.42 + volume) * (1.0 - np.abs(_ACROSS) ** 2.15).clip(0.0) ** (1.0 / 2.15)
    covered = crown < line - 0.03
    return between((w + 0.035) * _ACROSS[covered], crown[covered], line[covered])
