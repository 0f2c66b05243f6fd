"""The file that `serve deploy` takes, written beside the bundle that it serves."""

from __future__ import annotations

from typing import Any

import yaml

from s2v_ray import storage
from s2v_ray.models.bundle import read_card
from s2v_ray.serving.settings import parse_settings

SERVE_FILE = "serve.yaml"
IMPORT_PATH = "s2v_ray.serving.app:app"

_HEAD = """\
# The endpoint of this bundle. On a machine of the cluster: `serve deploy serve.yaml`; as a KubeRay RayService: the part `applications` is its serveConfigV2.
# Another bundle rolls in without a dropped request: change `bundle` and deploy again. All settings: s2v_ray/serving/settings.py.
# With token_env: NAME, the variable NAME must hold the bearer token on every node.
"""


def serve_config(bundle_uri: str, *, host: str = "127.0.0.1", port: int = 8000, **settings: Any) -> str:
    """The Serve config file of a bundle, as YAML.

    Args:
        bundle_uri: absolute, and readable from every node.
        host, port: where the proxies listen.
        settings: other fields of ``ServeSettings``.

    Raises:
        ArtifactError: no speech2video bundle is there.
        SettingsError: a setting that is unknown or cannot be used.
    """
    read_card(bundle_uri, "speech2video")
    given = parse_settings({"bundle": bundle_uri, **settings})
    args = {
        k: v
        for k, v in given.model_dump(mode="json").items()
        if k in settings or k in ("bundle", "replicas", "token_env", "jobs")
    }
    application = {"name": "s2v", "route_prefix": "/", "import_path": IMPORT_PATH, "args": args}
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [application],
    }
    return _HEAD + yaml.safe_dump(config, sort_keys=False, width=160)


def write_serve_config(bundle_uri: str, **settings: Any) -> str:
    """Writes ``serve_config`` beside the bundle's files; returns its URI. Raises as that does."""
    uri = storage.join(bundle_uri, SERVE_FILE)
    storage.write_bytes(uri, serve_config(bundle_uri, **settings).encode())
    return uri
