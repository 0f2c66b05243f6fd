"""Publication of a bundle, against a stand-in of the hub's HTTP API."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s2v_ray.models.bundle import load_bundle
from s2v_ray.publishing.hub import push_bundle
from tests.helpers.bundles import make_bundle
from tests.helpers.hub import StandInHub
from tests.helpers.servers import listening


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    stand_in = StandInHub()
    with listening(stand_in.app()) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", stand_in.token)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # LFS: Xet has no such simple API
        yield stand_in


def test_a_bundle_is_published_as_one_commit_and_can_be_loaded_from_it(tmp_path: Path, hub: StandInHub) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (tmp_path / "bundle" / "notes.txt").write_text("not of the bundle")
    pushed = push_bundle(bundle, "hf://me/face")
    (files,) = hub.commits["me/face"]
    assert hub.private == {"me/face": True}
    assert pushed["commit"] == "1".zfill(40)
    assert "README.md" in files and "notes.txt" not in files
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in files.items():
        (copy / name).write_bytes(content)
    _, card = load_bundle(str(copy), "speech2video")
    assert card["sha256"] == pushed["sha256"]
    push_bundle(bundle, "hf://me/face", public=True)
    assert len(hub.commits["me/face"]) == 2
    assert hub.private == {"me/face": True}, "an existing repository stays as it is"


def test_a_public_repository_is_asked_for(tmp_path: Path, hub: StandInHub) -> None:
    push_bundle(make_bundle(tmp_path / "bundle"), "hf://me/face", public=True)
    assert hub.private == {"me/face": False}


@pytest.mark.parametrize("target", ["me/face", "hf://face", "hf://me/face/more", "s3://me/face"])
def test_other_addresses_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(ValueError, match="hf://OWNER/NAME"):
        push_bundle(make_bundle(tmp_path / "bundle"), target)


def test_a_refused_token_is_an_error_of_the_network(
    tmp_path: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OSError, match="401"):
        push_bundle(make_bundle(tmp_path / "bundle"), "hf://me/face")


def test_without_the_library_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"s2v_ray\[hub\]"):
        push_bundle(make_bundle(tmp_path / "bundle"), "hf://me/face")
