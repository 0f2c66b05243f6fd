"""Plots of the reports."""

from __future__ import annotations

import numpy as np

from s2v_ray.evaluation import plots


def test_smoothing_by_hand() -> None:
    values = np.array([4.0, 0.0, 0.0, 0.0] + [1.0] * 21)  # 25 values: a time constant of 2
    smoothed = plots.smooth(values)
    assert smoothed[0] == 4.0
    assert np.isclose(smoothed[1], (0.5 * 4.0 + 0.0) / 1.5)
    assert np.isclose(smoothed[2], (0.25 * 4.0) / 1.75)
    assert abs(smoothed[-1] - 1.0) < 1e-3
    assert np.allclose(plots.smooth(np.full(9, 2.5)), 2.5)


def test_a_curve_is_svg_with_text_and_the_same_each_time() -> None:
    first = plots.training_curve("loss <x> $y", [1.0, 2.0, 4.0], [3.0, 2.0, 1.5])
    assert first.startswith("<svg") and ">loss &lt;x&gt; $y</text>" in first
    assert "<script" not in first
