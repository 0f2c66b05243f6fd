"""Loads the bundles of an endpoint."""

from __future__ import annotations

import asyncio
from typing import Protocol

from s2v_ray.inference.predictor import Predictor
from s2v_ray.serving.batching import Batcher
from s2v_ray.serving.concurrency import run_in_thread
from s2v_ray.serving.settings import ServeSettings

CLOSE_SECONDS = 5.0
"""Longest time to wait for the thread of a bundle that is unloaded."""


class BundleLoader(Protocol):
    """Gives loaded bundles by their names in the settings."""

    async def load(self, name: str) -> Batcher:
        """The bundle of that name, which is loaded if it is not yet."""
        ...

    async def close(self) -> None:
        """Unloads the bundles."""
        ...


class LocalBundles:
    """The bundles of this process. Each is loaded when it is first requested, and stays loaded."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self._loaded: dict[str, Batcher] = {}
        self._lock = asyncio.Lock()

    async def load(self, name: str) -> Batcher:
        """The bundle of that name.

        Raises:
            ArtifactError: there is no intact speech2video bundle.
        """
        async with self._lock:
            if name not in self._loaded:
                self._loaded[name] = await run_in_thread(open_bundle, self.settings, name)
            return self._loaded[name]

    async def close(self) -> None:
        """Unloads all bundles."""
        async with self._lock:
            for batcher in self._loaded.values():
                await run_in_thread(batcher.close, CLOSE_SECONDS)
            self._loaded.clear()


def open_bundle(settings: ServeSettings, name: str) -> Batcher:
    """Loads a bundle.

    Args:
        settings: settings of the endpoint.
        name: name of the bundle in the settings.

    Raises:
        ArtifactError: there is no intact speech2video bundle.
    """
    predictor = Predictor(settings.uris()[name], settings.device)
    return Batcher(predictor, settings.batch_frames, threads=settings.threads)
