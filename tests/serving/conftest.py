"""One endpoint for the tests of its API: small random bundles, and Starlette's client instead of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from s2v_ray.serving.api import create_app
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import parse_settings
from tests.helpers.bundles import make_bundle, make_teacher

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="session")
def uris(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URIs of a bundle, a reference bundle and an identity teacher."""
    folder = tmp_path_factory.mktemp("serving")
    return {
        "bundle": make_bundle(folder / "bundle"),
        "reference": make_bundle(folder / "reference", "gan.generator.reference=true"),
        "teacher": make_teacher(folder / "teacher"),
    }


@pytest.fixture(scope="session")
def make_client(uris: dict[str, str]) -> Callable[..., TestClient]:
    """Makes clients of an endpoint; arguments are further settings."""

    def make(token: str = TOKEN, **settings: Any) -> TestClient:
        limits = {"live": 4, **settings.pop("limits", {})}  # so that no capacity is measured
        parsed = parse_settings({**uris, **settings, "limits": limits})
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        app = create_app(Service(parsed, LocalBundles(parsed)), token)
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    return make


@pytest.fixture(scope="session")
def client(make_client: Callable[..., TestClient], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    limits = {"video_seconds": 20, "sync_seconds": 5, "upload_mb": 1}
    with make_client(videos=str(tmp_path_factory.mktemp("videos")), limits=limits) as started:
        yield started
