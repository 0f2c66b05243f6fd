"""The list of bundles."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_bundles_are_listed_with_their_misuse(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    assert [(m["name"], m["reference"], m["faces"]) for m in found["models"]] == [
        ("default", False, True),
        ("reference", True, True),
    ]
    assert found["models"][0]["emotions"] == ["neutral", "happy", "angry"]
    assert found["models"][0]["misuse"]
    assert found["models"][0]["size"] == 32
    assert found["limits"]["sync_seconds"] == 5
    assert found["limits"]["live"] == 4
    assert (found["videos"], found["study"]) == (True, False)
