"""The table of searchers, which a space refers to by name.

A package outside adds one with ``register_searcher`` in a module that the recipe names in ``plugins``, and selects it
by ``searcher`` in the space.
"""

from __future__ import annotations

from collections.abc import Callable

from s2v_ray.tuning.parameters import Params

Searcher = Callable[..., Params]
"""Space, recipe, trials so far and number of the new trial -> its values; the same for the same trials."""
SEARCHERS: dict[str, Searcher] = {}


def register_searcher(name: str) -> Callable[[Searcher], Searcher]:
    """Return a decorator that adds a searcher to ``SEARCHERS``."""

    def add(searcher: Searcher) -> Searcher:
        SEARCHERS[name] = searcher
        return searcher

    return add
