from __future__ import annotations

import math
import statistics

import pytest

from s2v_ray.cluster.planning import daly_interval, overhead, simulate, young_interval


def test_best_interval() -> None:
    assert young_interval(2.0, 100.0) == 20.0
    # x = 2/200: 20 (1 + 0.1/3 + 0.01/9) - 2
    assert daly_interval(2.0, 100.0) == pytest.approx(18.688889, abs=1e-6)
    assert daly_interval(300.0, 100.0) == 100.0


def test_dalys_interval_minimises_the_overhead() -> None:
    save, restart, mtbf = 60.0, 300.0, 4 * 3600.0
    best = min(range(10, 10_000, 10), key=lambda t: overhead(t, save, restart, mtbf))
    assert best == pytest.approx(daly_interval(save, mtbf), abs=10)
    assert overhead(1e9, save, restart, mtbf) == math.inf


def test_overhead_without_losses_is_the_saving() -> None:
    assert overhead(90.0, 10.0, 300.0, 1e12) == pytest.approx(100 / 90, abs=1e-6)


def test_overhead_by_hand() -> None:
    # 100 e^0.1 (e^0.2 - 1) / 10
    assert overhead(10.0, 10.0, 10.0, 100.0) == pytest.approx(2.446876, abs=1e-5)


def test_the_simulation_agrees_with_the_formula() -> None:
    work, interval, save, restart, mtbf = 100_000.0, 900.0, 60.0, 120.0, 5000.0
    walls = [simulate(work, interval, save, restart, mtbf, seed)[0] for seed in range(60)]
    assert statistics.mean(walls) / work == pytest.approx(overhead(interval, save, restart, mtbf), rel=0.03)


def test_the_simulation_without_losses() -> None:
    assert simulate(100.0, 30.0, 1.0, 5.0, 1e15) == (104.0, 0)  # 30 + 30 + 30 + 10, each saved
