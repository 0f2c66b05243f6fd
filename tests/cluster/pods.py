"""Writes KubeRay's pods as pods of their own, with the other objects of its manifests, for a linter of Kubernetes.

python -m tests.cluster.pods FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

KUBERAY = Path(__file__).parents[2] / "cluster" / "kuberay"


def pods(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One pod of the head and one of each group of workers."""
    spec, name = document["spec"], document["metadata"]["name"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    groups = {"head": spec["headGroupSpec"], **{g["groupName"]: g for g in spec["workerGroupSpecs"]}}
    kind = document["kind"].lower()
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**group["template"]["metadata"], "name": f"{kind}-{name}-{group_name}"},
            "spec": group["template"]["spec"],
        }
        for group_name, group in groups.items()
    ]


def main() -> None:
    """Write the file."""
    found: list[dict[str, Any]] = []
    for path in sorted(KUBERAY.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found += pods(document) if document["apiVersion"].startswith("ray.io/") else [document]
    Path(sys.argv[1]).write_text(yaml.safe_dump_all(found))


if __name__ == "__main__":
    main()
