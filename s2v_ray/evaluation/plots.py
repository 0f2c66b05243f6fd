"""Plots of the reports as inline SVG, with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.signal import lfilter

SMOOTHING = 0.08
"""Time constant of the exponential smoothing of a curve, as a share of its length."""
INK = "#2563a8"
LETTER, LINE = 9.0, 16.0
"""Width of a letter and height of a line, pixels of a figure with 100 dots per inch."""


def figure(width: float, height: float) -> tuple[Any, Any]:
    """Returns a figure of matplotlib and its axes; sizes in inches."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.add_subplot()


def svg(drawn: Any) -> str:
    """Returns a figure as SVG for a page; text stays text."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "s2v", "font.size": 9}):
        drawn.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def label_points(drawn: Any, axes: Any, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Writes a text at the right of each point, moved up where it would overlap another one.

    Args:
        drawn: the figure, whose curves and axes are complete.
        axes: its axes.
        labels: x and y of the point, text, colour.
    """
    drawn.draw_without_rendering()  # only then are the places in the picture known
    placed: list[tuple[float, float, int]] = []
    points = [(*axes.transData.transform((x, y)), text, color) for x, y, text, color in labels]
    inverse = axes.transData.inverted()
    for x, y, text, color in sorted(points, key=lambda point: point[1]):
        height = y
        for other_x, other_y, length in placed:
            close = -LETTER * len(text) < x - other_x < LETTER * length
            height = max(height, other_y + LINE) if close and height < other_y + LINE else height
        placed.append((x, height, len(text) + 1))
        where = inverse.transform((x + 4, height))
        axes.annotate(text, where, color=color, fontsize=9, va="center", annotation_clip=False)


def smooth(values: np.ndarray) -> np.ndarray:
    """Smooths ``[N]`` exponentially, without a bias at its start (as Adam corrects its moments)."""
    keep = 1 - 1 / max(1.0, SMOOTHING * len(values))
    total, weight = (lfilter([1.0], [1.0, -keep], x) for x in (values, np.ones(len(values))))
    smoothed: np.ndarray = total / weight
    return smoothed


def training_curve(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """Draws a curve thin, and smoothed; SVG."""
    drawn, axes = figure(3.2, 1.9)
    axes.plot(steps, values, color=INK, linewidth=0.6, alpha=0.4)
    axes.plot(steps, smooth(np.asarray(values, np.float64)), color=INK, linewidth=1.6)
    axes.set_title(name, fontsize=9, loc="left", parse_math=False)
    axes.tick_params(labelsize=7)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    return svg(drawn)
