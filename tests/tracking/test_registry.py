"""The model registry of MLflow (its file store, and a real server where one is named)."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray.models.bundle import load_bundle
from s2v_ray.publishing.cards import bundle_files, write_card
from s2v_ray.publishing.tracked import describe_bundle
from s2v_ray.storage import StoreError
from s2v_ray.tracking.registry import open_model, register
from tests.helpers.bundles import make_bundle


def test_a_bundle_is_found_by_alias_and_by_version(mlflow_store: str, tmp_path: Path) -> None:
    shas = []
    for seed, target in enumerate(("face@champion", "face@champion", "face")):
        bundle = make_bundle(tmp_path / f"run{seed}" / "bundle", seed=seed)
        write_card(bundle)
        made = register(describe_bundle(bundle), bundle_files(bundle), target)
        assert made == {"model": "face", "version": str(seed + 1), "address": f"models:/face/{seed + 1}"}
        shas.append(load_bundle(bundle, "speech2video")[1]["sha256"])
    cache = tmp_path / "cache"
    opened = {
        address: open_model(address, cache) for address in ("models:/face@champion", "models:/face/1", "models:/face/3")
    }
    found = [load_bundle(uri, "speech2video")[1]["sha256"] for uri in opened.values()]
    assert found == [shas[1], shas[0], shas[2]]
    assert all((Path(uri) / "README.md").exists() for uri in opened.values())
    assert cache.exists() == mlflow_store.startswith("http"), "only what the server alone gives access to is copied"
    again = open_model("models:/face/1", cache)
    assert again == opened["models:/face/1"]


@pytest.mark.parametrize("address", ["models:/face@nobody", "models:/face/9", "models:/other/1"])
def test_an_unknown_version_is_an_error(mlflow_store: str, tmp_path: Path, address: str) -> None:  # noqa: ARG001  # set
    bundle = make_bundle(tmp_path / "bundle")
    write_card(bundle)
    register(describe_bundle(bundle), bundle_files(bundle), "face")
    with pytest.raises(StoreError, match=f"MLflow has no model {address}"):
        open_model(address, tmp_path / "cache")


@pytest.mark.parametrize("address", ["models:/face", "models:/face@", "models:/face/latest", "models:/a/b@c"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="models:/NAME@ALIAS"):
        open_model(address)


@pytest.mark.parametrize("target", ["", "a/b", "a@b@c", "@champion"])
def test_other_names_are_refused(tmp_path: Path, target: str) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with pytest.raises(ValueError, match="NAME, or NAME@ALIAS"):
        register(describe_bundle(bundle), [], target)
