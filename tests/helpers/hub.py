"""A stand-in of the Hugging Face Hub's HTTP API, as far as a commit needs it: repositories, pre-upload, LFS, commit."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response


@dataclass
class StandInHub:
    """Repositories and the files of their commits.

    Attributes:
        token: that requests must have.
        private: repository -> whether it was created private.
        commits: repository -> files of each commit, name -> content.
        messages: summaries of the commits.
    """

    token: str = "hf_test"
    private: dict[str, bool] = field(default_factory=dict)
    commits: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def authorised(request: Request, call_next: Any) -> Response:
            if request.method != "PUT" and request.headers.get("authorization") != f"Bearer {self.token}":
                return Response(json.dumps({"error": "Invalid credentials"}), 401)
            response: Response = await call_next(request)
            return response

        @app.post("/api/repos/create")
        async def create(request: Request) -> Response:
            body = await request.json()
            name = "/".join(filter(None, (body.get("organization"), body["name"])))
            known = name in self.commits
            self.commits.setdefault(name, [])
            self.private.setdefault(name, body["visibility"] == "private")
            return Response(json.dumps({"url": f"{request.base_url}{name}"}), 409 if known else 200)

        @app.get("/api/whoami-v2")
        async def whoami() -> dict[str, Any]:
            return {"name": "me", "orgs": []}

        @app.post("/api/validate-yaml")
        async def validate() -> dict[str, Any]:
            return {"errors": [], "warnings": []}

        self._accept_uploads(app)
        return app

    def _accept_uploads(self, app: FastAPI) -> None:
        @app.post("/api/models/{owner}/{name}/preupload/main")
        async def preupload(request: Request) -> dict[str, Any]:
            files = (await request.json())["files"]
            mode = {True: "lfs", False: "regular"}
            return {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": mode[f["path"].endswith(".safetensors")],
                        "shouldIgnore": False,
                        "oid": None,
                    }
                    for f in files
                ]
            }

        @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
        async def batch(request: Request) -> Response:
            wanted = (await request.json())["objects"]
            objects = [{**o, "actions": {"upload": {"href": f"{request.base_url}objects/{o['oid']}"}}} for o in wanted]
            return Response(json.dumps({"transfer": "basic", "objects": objects}), media_type="application/json")

        @app.put("/objects/{oid}")
        async def put(oid: str, request: Request) -> Response:
            self.objects[oid] = await request.body()
            return Response()

        @app.post("/api/models/{owner}/{name}/commit/main")
        async def commit(owner: str, name: str, request: Request) -> dict[str, Any]:
            files: dict[str, bytes] = {}
            for entry in map(json.loads, (await request.body()).splitlines()):
                key, value = entry["key"], entry["value"]
                if key == "header":
                    self.messages.append(value["summary"])
                elif key == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif key == "lfsFile":
                    files[value["path"]] = self.objects[value["oid"]]
            self.commits[f"{owner}/{name}"].append(files)
            oid = f"{len(self.messages):040d}"
            return {"success": True, "commitOid": oid, "commitUrl": f"{request.base_url}{owner}/{name}/commit/{oid}"}
