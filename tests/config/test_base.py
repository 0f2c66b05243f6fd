"""Digests of plain values."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from s2v_ray.config import MediaConfig, digest


def test_digest_of_a_known_value() -> None:
    assert (
        digest({"b": 1, "a": "x"}) == digest({"a": "x", "b": 1}) == "cdab067e9f3beb32"
    )  # sha256sum of {"a":"x","b":1}


def test_sections_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        MediaConfig.model_validate({"sise": 64})
    with pytest.raises(ValidationError, match="frozen"):
        MediaConfig().size = 32
