"""Program: an endpoint in this process answers a few requests. Usage: traced_endpoint.py BUNDLE VIDEOS."""

from __future__ import annotations

import sys
import time

from fastapi.testclient import TestClient

from s2v_ray.serving.api import create_app
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import parse_settings
from tests.helpers.sounds import speech, wav

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"


def main(bundle: str, videos: str) -> None:
    settings = parse_settings({"bundle": bundle, "videos": videos, "limits": {"live": 1}})
    with TestClient(create_app(Service(settings, LocalBundles(settings)))) as client:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "X-Request-ID": "caller-1"}
        made = client.post("/v1/videos/sync", files={"speech": ("a.wav", wav(speech(0.2)))}, headers=headers)
        assert made.status_code == 200, made.text
        assert client.get("/v1/videos/none").status_code == 404
        assert client.get("/healthz").status_code == 200
        video = client.post("/v1/videos", files={"speech": ("a.wav", wav(speech(0.2)))}).json()["id"]
        while client.get(f"/v1/videos/{video}").json()["status"] != "completed":
            time.sleep(0.1)
        print(video)


if __name__ == "__main__":
    main(*sys.argv[1:])
