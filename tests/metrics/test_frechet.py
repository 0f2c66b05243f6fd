"""The Fréchet distance, compared with known values for Gaussians."""

from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.metrics.frechet import frechet_distance


def whitened(n: int, d: int, seed: int) -> np.ndarray:
    """``[n, d]`` with mean 0 and the identity for its covariance, exactly."""
    x = np.random.default_rng(seed).normal(size=(n, d))
    x -= x.mean(0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def test_known_values() -> None:
    a = whitened(200, 3, 0)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, whitened(90, 3, 1) + [3.0, 0.0, 4.0]) == pytest.approx(25.0)  # means alone
    assert frechet_distance(a, whitened(90, 3, 1) * [1.0, 3.0, 0.5]) == pytest.approx(
        4.0 + 0.25
    )  # (s - 1)^2 for each axis
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    cov_a, cov_b = np.diag([4.0, 1.0, 1.0]), turn @ np.diag([4.0, 1.0, 1.0]) @ turn.T
    shared = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real).sum()
    made = frechet_distance(a * [2.0, 1.0, 1.0], (a * [2.0, 1.0, 1.0]) @ turn.T)
    assert made == pytest.approx(12.0 - 2 * shared)  # covariances that do not commute


def test_fewer_codes_than_dimensions() -> None:
    a = np.eye(3, 8)
    assert frechet_distance(a, a + 1.0) == pytest.approx(8.0)


def test_other_shapes_are_refused() -> None:
    for a, b in ((np.zeros((1, 4)), np.zeros((3, 4))), (np.zeros((3, 4)), np.zeros((3, 5)))):
        with pytest.raises(ValueError, match="two sets of at least 2 codes of one dimension"):
            frechet_distance(a, b)
