"""One small Ray for the tests that are marked ``cluster``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Two CPUs' worth of Ray on this machine, ended with the tests."""
    import ray

    from s2v_ray.cluster.runtime import start_ray

    start_ray()
    yield
    ray.shutdown()
