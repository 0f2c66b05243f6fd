"""One endpoint for the tests of its API: tiny random bundles, and Starlette's client in the place of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from s2v_ray.serving.api import create_app
from s2v_ray.serving.service import Bundles, Service
from s2v_ray.serving.settings import ServeSettings, parse_settings
from tests.helpers import bundles

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URIs of a bundle, a reference bundle and an identity teacher."""
    folder = tmp_path_factory.mktemp("serving")
    return {
        "bundle": bundles.make_bundle(folder / "bundle"),
        "reference": bundles.make_bundle(folder / "reference", "gan.generator.reference=true"),
        "teacher": bundles.make_teacher(folder / "teacher"),
    }


@pytest.fixture(scope="session")
def serve_app(places: dict[str, str]) -> Callable[..., TestClient]:
    """Makes clients of an endpoint; arguments are further settings."""

    def start(token: str = TOKEN, **settings: Any) -> TestClient:
        given: ServeSettings = parse_settings(places | settings)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return TestClient(
            create_app(Service(given, Bundles(given)), token), headers=headers, raise_server_exceptions=False
        )

    return start


@pytest.fixture(scope="session")
def client(serve_app: Callable[..., TestClient], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serve_app(
        jobs=str(tmp_path_factory.mktemp("jobs")), limits={"video_seconds": 5, "job_seconds": 20, "upload_mb": 1}
    ) as started:
        yield started
