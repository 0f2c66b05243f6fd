"""The Fréchet distance between two sets of codes."""

from __future__ import annotations

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance between Gaussians fitted to two sets of codes, in the codes' squared unit; 0 if equal.

    ``|mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2)`` with covariances A and B (Dowson and Landau 1982). With the codes
    of Inception it is FID (Heusel et al. 2017). The distance falls with the number of codes, so only distances between
    sets of the same size can be compared.

    Args:
        a: ``[N, D]``, N at least 2.
        b: ``[M, D]``, M at least 2.

    Raises:
        ValueError: the codes have other shapes.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(
            f"the Fréchet distance takes two sets of at least 2 codes of one dimension, not {a.shape} and {b.shape}"
        )
    a, b = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = _root(cov_a)
    # tr (A B)^1/2 = tr (A^1/2 B A^1/2)^1/2: that matrix is symmetric, so rounding errors give no complex roots.
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0.0, None)).sum()
    distance = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a) + np.trace(cov_b) - 2.0 * shared
    return max(0.0, float(distance))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return root
