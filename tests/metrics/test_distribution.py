from __future__ import annotations

import numpy as np
import pytest

from s2v_ray.metrics.distribution import kernel_distance


def codes(seed: int, clips: int, frames: int, shift: float = 0.0, dim: int = 4) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(shift, 1.0, (frames, dim)) for _ in range(clips)]


def test_by_the_definition_with_loops() -> None:
    a, b = codes(0, 4, 2), codes(1, 3, 3, shift=0.5)
    scale = np.sqrt(np.mean(np.concatenate(b) ** 2))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / scale**2 / len(x) + 1) ** 3)

    def mean(first: list[np.ndarray], second: list[np.ndarray], same: bool) -> float:
        return float(
            np.mean(
                [
                    kernel(x, y)
                    for i, some in enumerate(first)
                    for j, others in enumerate(second)
                    if not (same and i == j)
                    for x in some
                    for y in others
                ]
            )
        )

    expected = mean(a, a, same=True) + mean(b, b, same=True) - 2 * mean(a, b, same=False)
    found = kernel_distance({"s": a}, {"s": b})
    assert found is not None
    assert found.mean == pytest.approx(expected)
    assert found.clips == 4
    assert found.low < found.mean < found.high


def test_sets_of_one_distribution_are_at_zero_on_average() -> None:
    found = [kernel_distance({"s": codes(2 * i, 12, 3)}, {"s": codes(2 * i + 1, 12, 3)}) for i in range(60)]
    means = np.array([d.mean for d in found if d is not None])
    assert abs(means.mean()) < 3 * means.std() / len(means) ** 0.5, "the estimate has no bias"
    covered = np.mean([d.low < 0 < d.high for d in found if d is not None])
    assert covered > 0.7  # the interval knows nothing of the variance of the real set
    far = kernel_distance({"s": codes(0, 12, 3, shift=1.0)}, {"s": codes(1, 12, 3)})
    assert far is not None and far.low > 0.5


def test_speakers_are_compared_with_themselves() -> None:
    """How many clips each speaker has makes no difference, though speakers differ much."""
    a, b = codes(0, 9, 3, shift=-3.0), codes(1, 3, 3, shift=3.0)
    real = {"a": codes(2, 5, 3, shift=-3.0), "b": codes(3, 15, 3, shift=3.0)}
    mixed = kernel_distance({"a": a, "b": b}, real)
    swapped = kernel_distance({"a": a, "b": codes(4, 3, 3, shift=-3.0)}, real)
    assert mixed is not None and swapped is not None
    assert mixed.clips == 12
    assert abs(mixed.mean) < 1.0 < swapped.mean


def test_the_scale_of_codes_makes_no_difference() -> None:
    a, b = codes(0, 4, 3), codes(1, 5, 3, shift=1.0)
    found = kernel_distance({"s": a}, {"s": b})
    larger = kernel_distance({"s": [10 * x for x in a]}, {"s": [10 * x for x in b]})
    assert found is not None and larger is not None
    assert found.mean == pytest.approx(larger.mean)


def test_too_few_clips_of_a_speaker_are_left_out() -> None:
    assert kernel_distance({"s": codes(0, 2, 3)}, {"s": codes(1, 9, 3)}) is None
    assert kernel_distance({"s": codes(0, 9, 3)}, {"t": codes(1, 9, 3)}) is None
    found = kernel_distance({"s": codes(0, 4, 3), "t": codes(2, 2, 3)}, {"s": codes(1, 4, 3), "t": codes(3, 4, 3)})
    assert found is not None and found.clips == 4
    with pytest.raises(ValueError, match="all 0"):
        kernel_distance({"s": codes(0, 3, 3)}, {"s": [np.zeros((3, 4))] * 3})
