"""Small recipes for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s2v_ray.config import Recipe, load_recipe, parse_recipe

TINY: dict[str, Any] = {"media": {"size": 32}, "gan": {"generator": {"channels": [8, 8, 8, 8]}}}


def tiny_recipe(**sections: Mapping[str, Any]) -> Recipe:
    """A recipe for frames of 32 pixels with few channels; ``sections`` override single keys of it."""
    return parse_recipe(_merged(TINY, sections))


def debug_recipe(*settings: str) -> Recipe:
    """The built-in recipe ``debug`` with ``settings`` such as ``gan.steps=5``."""
    return load_recipe("debug", settings)


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        known = merged.get(key)
        merged[key] = _merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return merged
