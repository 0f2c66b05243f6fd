from __future__ import annotations

import numpy as np
import pytest
import torch

from s2v_ray.metrics.identity import average_content_distance, centroids, cosine_identity, nearest_centroid


def test_distances_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert average_content_distance(a, a) == pytest.approx(0.0)
    assert average_content_distance(a, b) == pytest.approx(1 - 0.5**0.5)  # the mean of b's unit codes is at 45 degrees
    assert cosine_identity(a, b) == pytest.approx(0.5)


def test_nearest_centroid() -> None:
    codes = np.array([[2.0, 0.1], [1.0, -0.1], [0.1, 5.0]])
    centres, names = centroids(codes, ["b", "b", "a"])
    assert names == ["a", "b"]
    assert np.linalg.norm(centres, axis=1) == pytest.approx([1.0, 1.0])
    assert nearest_centroid(np.array([[9.0, 1.0], [1.0, 2.0]]), centres, names) == ["b", "a"]
