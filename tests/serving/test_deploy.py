"""The Serve config file."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

from s2v_ray import cli
from s2v_ray.serving.deploy import IMPORT_PATH, serve_config, write_serve_config
from s2v_ray.serving.settings import ServeSettings, parse_settings
from s2v_ray.storage import ArtifactError


def test_serve_accepts_the_config(uris: dict[str, str]) -> None:
    from ray.serve.schema import ServeDeploySchema

    settings = ServeSettings(bundle=uris["bundle"], replicas=(1, 4), token_env="TOKEN", videos="s3://bucket/videos")
    config = ServeDeploySchema.model_validate(yaml.safe_load(serve_config(settings)))
    (application,) = config.applications
    assert application.import_path == IMPORT_PATH
    assert parse_settings(application.args) == settings
    assert config.http_options.host == "127.0.0.1", "only this machine, unless another address is requested"


def test_the_config_contains_what_was_set(uris: dict[str, str]) -> None:
    config = yaml.safe_load(serve_config(ServeSettings(bundle=uris["bundle"], threads=2), host="0.0.0.0", port=9))
    assert config["applications"][0]["args"].keys() == {"bundle", "replicas", "token_env", "videos", "threads"}
    assert config["http_options"] == {"host": "0.0.0.0", "port": 9}


def test_the_import_path_exists() -> None:
    module, _, name = IMPORT_PATH.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_file_is_written_into_the_folder_of_an_intact_bundle(uris: dict[str, str], tmp_path: Path) -> None:
    assert cli.main(["export", uris["bundle"], "--token-env", "TOKEN"]) == 0
    written = Path(uris["bundle"]) / "serve.yaml"
    assert yaml.safe_load(written.read_text())["applications"][0]["args"]["token_env"] == "TOKEN"
    with pytest.raises(ArtifactError, match="there is no bundle"):
        write_serve_config(ServeSettings(bundle=str(tmp_path)))
