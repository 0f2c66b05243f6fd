from __future__ import annotations

from typing import Any

import pytest

from s2v_ray.serving.settings import SettingsError, parse_settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "bundle: Field required"),
        ({"bundle": "b", "replicas": [2, 1]}, "replicas: must be the smallest and the largest number"),
        ({"bundle": "b", "bundles": {"default": "c"}}, "cannot be the name of a bundle"),
        ({"bundle": "b", "bundles": {"a/b": "c"}}, "cannot be the name of a bundle"),
        ({"bundle": "b", "canary": "new"}, "canary: 'new' is none of the bundles"),
        ({"bundle": "b", "canary_share": 0.1}, "canary_share: needs canary"),
        ({"bundle": "b", "limits": {"videos": 0}}, "limits.videos"),
        ({"bundle": "b", "bundels": {}}, "bundels"),
    ],
)
def test_settings_that_are_not_valid(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(values)


def test_the_default_bundle_is_the_first() -> None:
    settings = parse_settings({"bundle": "a", "bundles": {"x": "c"}, "reference": "b"})
    assert list(settings.uris().items()) == [("default", "a"), ("reference", "b"), ("x", "c")]
    assert parse_settings({"bundle": "a"}).uris() == {"default": "a"}
