"""Reads manifests of clusters (``ray up`` and KubeRay), and checks them against a recipe and the pinned versions.

Both kinds give the same ``Cluster``: groups of equal nodes. The checks find errors that otherwise make a job wait
forever (too few GPUs, a label that no node has), prevent nodes from joining (another version of Ray or Python), or
leave the cluster open (no token).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from s2v_ray import storage
from s2v_ray.config import ROLE_LABEL, Recipe, Role

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|ACCESS_KEY", re.IGNORECASE)
"""Matches names of variables that hold secrets."""
IMAGE_TAG = re.compile(r":ray(?P<ray>[\d.]+)-py(?P<python>[\d.]+)-(?P<target>cpu|gpu)$")
"""Matches the tags of the project's images: the versions in them and the target of ``cluster/Dockerfile``."""


class ManifestError(ValueError):
    """A manifest that cannot be used; the message says why."""


@dataclass(frozen=True)
class Group:
    """A group of equal nodes (on Kubernetes: pods).

    Attributes:
        name: of the group.
        role: value of the nodes' role label; "" without one.
        cpus, gpus: resources of one node for work; 0 for a head that accepts no work.
        max_nodes: largest number of nodes; 1 for the head.
        head: whether this is the head.
        image: container image.
        instance: the cloud's instance type; "" on Kubernetes.
        spot: whether the cloud may reclaim the nodes.
    """

    name: str
    role: str
    cpus: float
    gpus: float
    max_nodes: int
    head: bool
    image: str
    instance: str = ""
    spot: bool = False


@dataclass(frozen=True)
class Cluster:
    """A cluster, as its manifest describes it.

    Attributes:
        name: of the cluster.
        groups: its nodes.
        ray_version: in the manifest, or None.
        token: whether token authentication is on.
        secrets: names of secrets whose values are in the manifest.
    """

    name: str
    groups: tuple[Group, ...]
    ray_version: str | None
    token: bool
    secrets: tuple[str, ...]

    def of_role(self, role: Role) -> list[Group]:
        """Returns the groups with a role."""
        return [g for g in self.groups if g.role == role]


@dataclass(frozen=True)
class Pins:
    """Versions that the project is tested with.

    Attributes:
        ray: full version.
        python: major and minor version.
    """

    ray: str
    python: str


def read_pins(constraints: str, pyproject: str) -> Pins:
    """Reads the pinned versions.

    Args:
        constraints: content of pip's constraints, which pin Ray.
        pyproject: content of ``pyproject.toml``, whose target of mypy gives Python's version.

    Raises:
        ManifestError: a version is missing, or Ray's pin is outside of the project's range.
    """
    ray = re.search(r"^ray==(\S+)$", constraints, re.MULTILINE)
    wanted = re.search(r'"ray\[[^\]]*\]==(\d+\.\d+)\.\*"', pyproject)
    python = re.search(r'^python_version = "(\d+\.\d+)"$', pyproject, re.MULTILINE)
    if not (ray and wanted and python):
        raise ManifestError("constraints and pyproject.toml must pin ray==X.Y.Z, ray==X.Y.* and python_version")
    if not ray[1].startswith(wanted[1] + "."):
        raise ManifestError(f"the constraints pin ray {ray[1]}, pyproject.toml asks for {wanted[1]}.*")
    return Pins(ray[1], python[1])


def load_cluster(uri: str) -> Cluster:
    """Reads ``cluster/aws.yaml``, ``cluster/gcp.yaml`` or a manifest of KubeRay.

    Raises:
        ManifestError: it is not YAML, or none of these.
    """
    try:
        data = yaml.safe_load(storage.read_bytes(uri))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ManifestError(f"{uri} is not one YAML document: {e}") from e
    try:
        return parse_cluster(data)
    except (KeyError, TypeError, AttributeError, IndexError) as e:
        raise ManifestError(f"{uri} is not a manifest of a Ray cluster: {type(e).__name__}: {e}") from e


def parse_cluster(data: dict[str, Any]) -> Cluster:
    """Parses the content of a manifest, as in ``load_cluster``."""
    if "available_node_types" in data:
        return _parse_ray_up(data)
    spec = data["spec"]
    spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    return _parse_kuberay(data["metadata"]["name"], spec)


def find_problems(cluster: Cluster, pins: Pins, recipe: Recipe | None = None) -> list[str]:
    """Checks a cluster.

    Args:
        cluster: to check.
        pins: versions that its images must have.
        recipe: config of a run that must fit into it; None for a cluster that only serves.

    Returns:
        one message per problem.
    """
    found = [f"a secret is written in clear: {name}" for name in cluster.secrets]
    if not cluster.token:
        found.append("token authentication is off: anyone who can reach the dashboard can run code")
    for group in cluster.groups:
        found += [f"{group.name}: {p}" for p in _group_problems(group, pins)]
    if cluster.ray_version is not None and cluster.ray_version != pins.ray:
        found.append(f"rayVersion is {cluster.ray_version}, the constraints pin {pins.ray}")
    if [g.head for g in cluster.groups].count(True) != 1:
        found.append("there must be one head")
    return found + ([] if recipe is None else _capacity_problems(cluster, recipe))


def workers_on(group: Group, recipe: Recipe) -> int:
    """Returns the number of training workers that fit on one node."""
    by_cpu = int(group.cpus // recipe.parallel.cpus_per_worker)
    return min(by_cpu, int(group.gpus)) if recipe.parallel.gpu else by_cpu


def _group_problems(group: Group, pins: Pins) -> list[str]:
    found = []
    if group.role not in get_args(Role):
        found.append(f"its label {ROLE_LABEL} is {group.role!r}, not one of {', '.join(get_args(Role))}")
    if (group.role == "driver") != group.head:
        found.append(f"the head, and only the head, has the label {ROLE_LABEL}=driver")
    if group.head and (group.cpus or group.gpus):
        found.append("the head offers CPUs or GPUs: work would run beside the drivers")
    if group.head and group.spot:
        found.append("the head is a spot node: its drivers would be lost with it")
    tag = IMAGE_TAG.search(group.image)
    if tag is None:
        found.append(f"the tag of {group.image!r} does not name versions and target (rayX.Y.Z-pyX.Y-cpu or -gpu)")
    elif (tag["ray"], tag["python"]) != (pins.ray, pins.python):
        found.append(
            f"the image has ray {tag['ray']} on Python {tag['python']}, pinned are {pins.ray} and {pins.python}"
        )
    elif (tag["target"] == "gpu") != (group.gpus > 0):
        found.append(f"it has {group.gpus:g} GPUs, and the image for {tag['target'].upper()} nodes")
    return found


def _capacity_problems(cluster: Cluster, recipe: Recipe) -> list[str]:
    found = []
    training, ingest = cluster.of_role("train"), cluster.of_role("ingest")
    room = sum(g.max_nodes * workers_on(g, recipe) for g in training)
    each = f"{recipe.parallel.cpus_per_worker:g} CPUs" + (" and a GPU" if recipe.parallel.gpu else "")
    if room < recipe.parallel.workers:
        found.append(
            f"recipe {recipe.name} needs {recipe.parallel.workers} workers of {each}; "
            f"the nodes labelled train hold {room}"
        )
    spare = sum(g.max_nodes * g.cpus for g in training) - recipe.parallel.workers * recipe.parallel.cpus_per_worker
    if spare < 1:
        found.append("no CPU of the nodes labelled train is left to decode clips")
    if not any(g.max_nodes * g.cpus >= 1 for g in ingest):
        found.append("no node labelled ingest has a CPU")
    if any(g.gpus for g in ingest):
        found.append("ingest would hold GPUs that it does not use")
    return found


def _parse_ray_up(data: dict[str, Any]) -> Cluster:
    head, image = data["head_node_type"], data["docker"]["image"]
    groups = []
    for name, kind in data["available_node_types"].items():
        resources, node = kind["resources"], kind["node_config"]
        group = Group(
            name=name,
            role=kind.get("labels", {}).get(ROLE_LABEL, ""),
            cpus=resources.get("CPU", 0),
            gpus=resources.get("GPU", 0),
            max_nodes=1 if name == head else min(kind.get("max_workers", 0), data["max_workers"]),
            head=name == head,
            image=image if name == head else kind.get("docker", {}).get("worker_image", image),
            instance=node["InstanceType"] if "InstanceType" in node else node["machineType"],
            spot=node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
            or node.get("scheduling", {}).get("provisioningModel") == "SPOT",
        )
        groups.append(group)
    options = data["docker"].get("run_options", [])
    mounted = any(path.endswith("/.ray/auth_token") for path in data.get("file_mounts", {}))
    token = mounted and any(o.split() == ["--env", "RAY_AUTH_MODE=token"] for o in options)
    written = re.findall(
        r"(\w+)=(?!token\b)\S",
        " ".join([*options, *data["head_start_ray_commands"], *data["worker_start_ray_commands"]]),
    )
    return Cluster(data["cluster_name"], tuple(groups), None, token, tuple(n for n in written if SECRET.search(n)))


def _parse_kuberay(name: str, spec: dict[str, Any]) -> Cluster:
    parts = [("head", spec["headGroupSpec"], 1)] + [
        (g["groupName"], g, g["maxReplicas"]) for g in spec["workerGroupSpecs"]
    ]
    groups = []
    secrets = _clear_values(
        "redisPassword", [{"name": "PASSWORD", **spec.get("gcsFaultToleranceOptions", {}).get("redisPassword", {})}]
    )
    for group, part, nodes in parts:
        container = part["template"]["spec"]["containers"][0]
        limits, start = container["resources"]["limits"], part.get("rayStartParams", {})
        cpus = float(start.get("num-cpus", limits["cpu"]))
        gpus = float(limits.get("nvidia.com/gpu", 0))
        groups.append(
            Group(
                group,
                part.get("labels", {}).get(ROLE_LABEL, ""),
                cpus,
                gpus,
                nodes,
                part is spec["headGroupSpec"],
                container["image"],
            )
        )
        secrets += _clear_values(group, container.get("env", []))
    token = spec.get("authOptions", {}).get("mode") == "token"
    return Cluster(name, tuple(groups), str(spec["rayVersion"]), token, tuple(secrets))


def _clear_values(where: str, variables: list[dict[str, Any]]) -> list[str]:
    return [f"{where}.{v['name']}" for v in variables if "value" in v and SECRET.search(v["name"])]
