"""Writes the Serve config file of a bundle, which `serve deploy` takes, into the bundle's folder."""

from __future__ import annotations

import yaml

from s2v_ray import storage
from s2v_ray.models.bundle import read_card
from s2v_ray.serving.settings import ServeSettings

SERVE_FILE = "serve.yaml"
IMPORT_PATH = "s2v_ray.serving.app:app"
ALWAYS_WRITTEN = {"bundle", "replicas", "token_env", "videos"}
"""Settings that the file contains even if they have their default."""

_HEADER = """\
# The endpoint of this bundle. On a machine of the cluster: `serve deploy serve.yaml`. For a KubeRay RayService, the
# part `applications` is its serveConfigV2. To roll out another bundle without dropped requests, change `bundle` and
# deploy again. All settings: s2v_ray/serving/settings.py. With token_env: NAME, the variable NAME must hold the bearer
# token on every node.
"""


def serve_config(settings: ServeSettings, *, host: str = "127.0.0.1", port: int = 8000) -> str:
    """Formats the Serve config file of an endpoint, as YAML.

    Args:
        settings: settings of the endpoint. The file contains those that were set. URIs must be absolute and readable
            from every node.
        host: address on which the proxies listen.
        port: port on which the proxies listen.

    Raises:
        ArtifactError: there is no speech2video bundle.
    """
    read_card(settings.bundle, "speech2video")
    args = settings.model_dump(mode="json", include=settings.model_fields_set | ALWAYS_WRITTEN)
    application = {"name": "s2v", "route_prefix": "/", "import_path": IMPORT_PATH, "args": args}
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "applications": [application],
    }
    body: str = yaml.safe_dump(config, sort_keys=False, width=160)
    return _HEADER + body


def write_serve_config(settings: ServeSettings, *, host: str = "127.0.0.1", port: int = 8000) -> str:
    """Writes the Serve config file into the bundle's folder; returns its URI.

    Raises:
        ArtifactError: there is no speech2video bundle, or the file cannot be written.
    """
    text = serve_config(settings, host=host, port=port)
    uri = storage.join(settings.bundle, SERVE_FILE)
    storage.write_bytes(uri, text.encode())
    return uri
