"""Bundles for the tests of inference."""

from __future__ import annotations

import pytest

from s2v_ray.inference.predictor import Predictor
from tests.helpers.bundles import make_bundle


@pytest.fixture(scope="package")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="package")
def reference_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("reference"), "gan.generator.reference=true")


@pytest.fixture(scope="package")
def predictor(bundle: str) -> Predictor:
    return Predictor(bundle)
