"""The endpoint on Ray Serve, once: every way to ask for a video, several bundles, and a new bundle that rolls in under load."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import requests
import yaml

from s2v_ray.serving.deploy import IMPORT_PATH, serve_config, write_serve_config
from s2v_ray.serving.settings import SettingsError, parse_settings
from s2v_ray.storage import ArtifactError
from tests.helpers.bundles import make_bundle
from tests.helpers.sounds import speech, wav


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_config_is_one_that_serve_takes(places: dict[str, str]) -> None:
    from ray.serve.schema import ServeDeploySchema

    text = yaml.safe_load(serve_config(places["bundle"], replicas=(1, 4), token_env="TOKEN", jobs="s3://bucket/jobs"))
    config = ServeDeploySchema.model_validate(text)
    (application,) = config.applications
    assert application.import_path == IMPORT_PATH
    settings = parse_settings(application.args)  # what app() does with them
    assert (settings.bundle, settings.replicas, settings.token_env) == (places["bundle"], (1, 4), "TOKEN")
    assert config.http_options.host == "127.0.0.1"  # as `s2v serve`: whoever wants more says so


def test_the_import_path_is_there() -> None:
    import importlib

    module, _, name = IMPORT_PATH.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_it_is_written_beside_a_sound_bundle_only(places: dict[str, str], tmp_path: Path) -> None:
    from s2v_ray import cli

    assert cli.main(["export", places["bundle"], "--token-env", "TOKEN"]) == 0
    written = Path(places["bundle"]) / "serve.yaml"
    assert yaml.safe_load(written.read_text())["applications"][0]["args"]["token_env"] == "TOKEN"
    with pytest.raises(ArtifactError, match="there is no bundle"):
        write_serve_config(str(tmp_path))
    with pytest.raises(SettingsError, match="bundels"):
        serve_config(places["bundle"], bundels={})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "bundle: Field required"),
        ({"bundle": "b", "replicas": [2, 1]}, "replicas: fewest and most"),
        ({"bundle": "b", "bundles": {"default": "c"}}, "cannot be a bundle's name"),
        ({"bundle": "b", "limits": {"videos": 0}}, "limits.videos"),
    ],
)
def test_settings_that_cannot_be_used(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        parse_settings(values)


@pytest.mark.cluster
@pytest.mark.slow
def test_an_endpoint_on_serve(places: dict[str, str], tmp_path: Path) -> None:
    from ray import serve

    from s2v_ray.serving.app import APPLICATION, app, serve_here

    ray.shutdown()  # what earlier tests left: the endpoint starts a Ray of its own
    second = make_bundle(tmp_path / "second", seed=7)
    settings = parse_settings(
        {"bundle": places["bundle"], "bundles": {"second": second}, "jobs": str(tmp_path / "jobs"), "cpus": 0.5}
    )
    sound = wav(speech(1.0))

    def ask(data: dict[str, str] | None = None, **more: Any) -> requests.Response:
        return requests.post(f"{address}/v1/videos", files={"speech": sound}, data=data or {}, timeout=60, **more)

    with serve_here(settings, "127.0.0.1", free_port()) as address:
        assert requests.get(f"{address}/readyz", timeout=10).json() == {"status": "ready"}
        plain = ask()
        assert plain.status_code == 200 and plain.content[4:8] == b"ftyp"
        with ask({"stream": "true"}, stream=True) as streamed:
            pieces = list(streamed.iter_content(None))
            assert b"".join(pieces).count(b"moof") >= 3 and len(pieces) > 1
        other = ask({"model": "second"}, headers={"serve_multiplexed_model_id": "second"})
        assert other.status_code == 200 and other.content != plain.content
        assert ask({"emotion": "bored"}).json()["error"]["code"] == "unknown_emotion"
        job = requests.post(f"{address}/v1/jobs", files={"speech": sound}, timeout=30).json()
        until = time.monotonic() + 60
        while (state := requests.get(f"{address}/v1/jobs/{job['id']}", timeout=10).json())["state"] != "done":
            assert time.monotonic() < until, state
            time.sleep(0.1)
        assert requests.get(address + state["result"], timeout=10).content[4:8] == b"ftyp"

        answers: list[int] = []
        new: list[bytes] = []
        stop = threading.Event()

        def call() -> None:
            while not stop.is_set():
                answer = ask()
                answers.append(answer.status_code)
                new.append(answer.content)

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        changed = settings.model_copy(update={"bundle": second, "bundles": {}})
        serve.run(app(changed.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
        time.sleep(1)
        stop.set()
        for caller in callers:
            caller.join()
        assert set(answers) == {200}, "a request was dropped while the new bundle rolled in"
        assert new[-1] == other.content  # the new bundle answers
