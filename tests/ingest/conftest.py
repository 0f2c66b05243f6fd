"""What the tests of ingest share."""

from __future__ import annotations

import pytest

from tests.helpers.faces import StubDetector, install_detector


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> StubDetector:
    """The stub that ingest uses as its face detector."""
    return install_detector(monkeypatch)
