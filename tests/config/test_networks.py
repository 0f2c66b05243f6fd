"""Sections about networks."""

from __future__ import annotations

import pytest

from s2v_ray.config import GeneratorConfig


@pytest.mark.parametrize(("size", "levels"), [(32, 4), (64, 5), (96, 5), (128, 6), (256, 7)])
def test_one_entry_for_each_doubling(size: int, levels: int) -> None:
    GeneratorConfig(channels=(8,) * levels).check_size(size)
    with pytest.raises(ValueError, match=f"needs {levels} entries for media.size={size}"):
        GeneratorConfig(channels=(8,) * (levels + 1)).check_size(size)
