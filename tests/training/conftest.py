"""One small Ray for the tests that are marked ``cluster``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Two CPUs' worth of Ray on this machine, ended with the tests."""
    import ray

    ray.init(address="local", num_cpus=2, object_store_memory=200_000_000, log_to_driver=False)
    yield
    ray.shutdown()
