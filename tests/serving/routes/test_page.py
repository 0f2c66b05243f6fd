"""The files of the page."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from s2v_ray.serving.routes.page import FILES


@pytest.mark.parametrize("path", FILES)
def test_files_are_complete_and_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert len(response.text) > 500
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "http://" not in response.text
    assert "https://" not in response.text.replace("https:// and", "")
