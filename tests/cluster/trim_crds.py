"""Makes ``kuberay-crds.json`` from KubeRay's CRDs: the part of 3.4 MB that the tests need, in less than 100 kB.

Usage: ``python tests/cluster/trim_crds.py KUBERAY_CLONE`` (https://github.com/ray-project/kuberay, Apache-2.0).
Descriptions, defaults and the status are removed; a part that occurs in many places (a pod's template) is stored once.
Fields that a schema does not name are refused: the API server would drop them without a message, also misspelt ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FOLDER = "ray-operator/config/crd/bases"
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
KEPT = {
    "type",
    "properties",
    "items",
    "required",
    "enum",
    "additionalProperties",
    "minimum",
    "maximum",
    "pattern",
    "anyOf",
}


def trim(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A JSON Schema for one OpenAPI schema of a CRD; larger objects become references into ``definitions``."""
    kept = {k: v for k, v in schema.items() if k in KEPT}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in kept:
        kept["properties"] = {name: trim(s, definitions) for name, s in kept["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = trim(kept[key], definitions)
    text = json.dumps(kept, sort_keys=True)
    if len(text) < 120:
        return kept
    same = [name for name, known in definitions.items() if known == kept]
    name = same[0] if same else f"d{len(definitions)}"
    definitions[name] = kept
    return {"$ref": f"#/definitions/{name}"}


def main(clone: str) -> None:
    definitions: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for kind, name in KINDS.items():
        text = subprocess.check_output(["git", "-C", clone, "show", f"HEAD:{FOLDER}/ray.io_{name}.yaml"], text=True)
        crd = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        (v1,) = (v["schema"]["openAPIV3Schema"] for v in crd["spec"]["versions"] if v["name"] == "v1")
        kinds[kind] = trim(v1["properties"]["spec"], definitions)
    commit = subprocess.check_output(["git", "-C", clone, "rev-parse", "HEAD"], text=True).strip()
    source = {
        "repository": "https://github.com/ray-project/kuberay",
        "commit": commit,
        "folder": FOLDER,
        "licence": "Apache-2.0",
        "made_by": "trim_crds.py",
    }
    target = Path(__file__).with_name("kuberay-crds.json")
    target.write_text(
        json.dumps({"source": source, "spec": kinds, "definitions": definitions}, separators=(",", ":"), sort_keys=True)
        + "\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
