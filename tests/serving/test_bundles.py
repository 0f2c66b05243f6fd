from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from s2v_ray.serving.bundles import LocalBundles, open_bundle
from s2v_ray.serving.settings import parse_settings
from s2v_ray.storage import ArtifactError


def test_a_bundle_is_loaded_once(uris: dict[str, str]) -> None:
    async def run() -> None:
        bundles = LocalBundles(parse_settings(uris))
        first, second = await asyncio.gather(bundles.load("default"), bundles.load("default"))
        assert first is second
        assert (await bundles.load("reference")).predictor.reference
        await bundles.close()
        again = await bundles.load("default")
        assert again is not first
        await bundles.close()

    asyncio.run(run())


def test_a_missing_bundle_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no bundle"):
        open_bundle(parse_settings({"bundle": str(tmp_path)}), "default")
