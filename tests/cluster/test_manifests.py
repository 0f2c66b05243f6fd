"""The shipped manifests: schemas, and that they fit the recipe, the pinned versions and each other."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from s2v_ray.cluster.manifests import (
    Cluster,
    ManifestError,
    Pins,
    find_problems,
    load_cluster,
    parse_cluster,
    read_pins,
    workers_on,
)
from s2v_ray.config import load_recipe

ROOT = Path(__file__).parents[2]
AWS = ROOT / "cluster" / "aws.yaml"
GCP = ROOT / "cluster" / "gcp.yaml"
KUBERAY = ROOT / "cluster" / "kuberay"
RAYCLUSTER = KUBERAY / "raycluster.yaml"
RAY_KINDS = {"raycluster": "RayCluster", "rayjob": "RayJob", "rayservice": "RayService"}
FULL = load_recipe("full")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pins() -> Pins:
    return read_pins((ROOT / ".ci" / "constraints.txt").read_text(), (ROOT / "pyproject.toml").read_text())


def package_folder(name: str) -> Path:
    """Where an installed package lies, found without importing it."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def kuberay_schema(kind: str) -> dict[str, Any]:
    known = json.loads(Path(__file__).with_name("kuberay-crds.json").read_text())
    return {"definitions": known["definitions"], "allOf": [known["spec"][kind]]}


@pytest.mark.parametrize("path", [AWS, GCP, RAYCLUSTER, KUBERAY / "rayjob.yaml"], ids=lambda p: p.name)
def test_the_recipe_full_fits(path: Path) -> None:
    assert find_problems(load_cluster(str(path)), pins(), FULL) == []


def test_the_service_has_no_problems() -> None:
    cluster = load_cluster(str(KUBERAY / "rayservice.yaml"))
    assert find_problems(cluster, pins()) == []
    assert [g.role for g in cluster.groups] == ["driver", "serve"]


def test_all_manifests_are_tested() -> None:
    assert {p.stem for p in KUBERAY.glob("*.yaml")} == {*RAY_KINDS, "support"}


def test_what_is_read_from_aws() -> None:
    head, train, ingest = load_cluster(str(AWS)).groups
    assert (head.head, head.cpus, head.spot, head.instance) == (True, 0, False, "m6i.xlarge")
    assert (train.cpus, train.gpus, train.max_nodes, train.spot, train.role) == (48, 4, 4, True, "train")
    assert (ingest.cpus, ingest.gpus, ingest.role) == (32, 0, "ingest")
    assert workers_on(train, FULL) == 4  # 48 CPUs hold 8 workers of 6, the GPUs only 4


def test_what_is_read_from_google() -> None:
    """The same groups as on AWS, on other machines."""
    aws, gcp = load_cluster(str(AWS)), load_cluster(str(GCP))
    machines = {"head": "n2-standard-4", "train": "g2-standard-48", "ingest": "n2-standard-32"}
    assert [g.instance for g in gcp.groups] == list(machines.values())
    assert gcp == dataclasses.replace(
        aws, groups=tuple(dataclasses.replace(g, instance=machines[g.name]) for g in aws.groups)
    )


@pytest.mark.parametrize(("name", "kind"), RAY_KINDS.items())
def test_kuberay_accepts_the_manifest(name: str, kind: str) -> None:
    (document,) = documents(KUBERAY / f"{name}.yaml")
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", kind)
    jsonschema.validate(document["spec"], kuberay_schema(kind))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["headGroupSpec", "template", "spec", "containers", 0, "imagge"], "x"),
        (["autoscalerOptions", "version"], "v3"),
        (["workerGroupSpecs", 0, "minReplicas"], "1"),
    ],
)
def test_kuberays_schema_refuses(place: list[Any], value: object) -> None:
    (document,) = documents(KUBERAY / "raycluster.yaml")
    node = document["spec"]
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document["spec"], kuberay_schema("RayCluster"))


def test_the_job_runs_on_the_very_cluster() -> None:
    (cluster,), (job,) = documents(KUBERAY / "raycluster.yaml"), documents(KUBERAY / "rayjob.yaml")
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]


def test_instances_have_what_the_manifest_promises() -> None:
    """Against AWS's own description of its instances, which moto carries."""
    with gzip.open(package_folder("moto") / "ec2" / "resources" / "instance_types.json.gz") as f:
        known = json.load(f)
    for group in load_cluster(str(AWS)).groups:
        instance = known[group.instance]
        gpus = sum(g["Count"] for g in instance.get("GpuInfo", {}).get("Gpus", []))
        assert group.gpus == gpus
        if not group.head:
            assert group.cpus == instance["VCpuInfo"]["DefaultVCpus"]


def test_the_policy_allows_the_manifests_instances_and_no_others() -> None:
    statements = {s["Sid"]: s for s in json.loads((ROOT / "cluster" / "iam-head.json").read_text())["Statement"]}
    allowed = statements["StartOnlyWorkersOfThisCluster"]["Condition"]["StringEquals"]
    cluster = load_cluster(str(AWS))
    assert set(allowed["ec2:InstanceType"]) == {g.instance for g in cluster.groups if not g.head}
    assert allowed["aws:RequestTag/ray-cluster-name"] == cluster.name
    assert (
        statements["TagAndEndOnlyThisCluster"]["Condition"]["StringEquals"]["aws:ResourceTag/ray-cluster-name"]
        == cluster.name
    )
    types = yaml.safe_load(AWS.read_text())["available_node_types"]
    profiles = {kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in types.items() if name != "head"}
    assert [statements["WorkersHaveTheirOwnRole"]["Resource"]] == [f"arn:aws:iam::ACCOUNT:role/{p}" for p in profiles]


@pytest.mark.parametrize("name", ["iam-head.json", "iam-data.json"])
def test_policies_grant_nothing_at_large(name: str) -> None:
    for statement in json.loads((ROOT / "cluster" / name).read_text())["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert not any("*" in a for a in actions)
        if statement["Resource"] == "*":
            assert all(re.match(r"ec2:Describe|ecr:GetAuthorizationToken", a) for a in actions)


def test_the_image_is_pinned_and_has_no_root() -> None:
    lines = (ROOT / "cluster" / "Dockerfile").read_text().splitlines()
    stages = {line.split()[3]: line.split()[1] for line in lines if line.startswith("FROM")}
    assert {base for base in stages.values() if base not in stages} == {f"python:{pins().python}-slim-bookworm"}
    assert stages["cpu"] == stages["gpu"] == "node"
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users and users[-1] not in ("root", "0")
    assert sum("-c constraints.txt" in line for line in lines) == 2, "both targets"


def test_workers_are_drained_before_their_pods_end() -> None:
    """What Kubernetes calls exists, and the time that it takes is shorter than that which Kubernetes gives."""
    for name in RAY_KINDS:
        (document,) = documents(KUBERAY / f"{name}.yaml")
        spec = document["spec"]
        spec = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
        for group in spec["workerGroupSpecs"]:
            pod = group["template"]["spec"]
            program, m, module, option, seconds = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
            assert (program, m, option) == ("python", "-m", "--seconds")
            assert importlib.util.find_spec(module) is not None
            assert int(seconds) < pod["terminationGracePeriodSeconds"]


def test_containers_ask_for_disk() -> None:
    for name in RAY_KINDS:
        for limits in re.findall(r"(?:requests|limits): \{cpu.*\}", (KUBERAY / f"{name}.yaml").read_text()):
            assert "ephemeral-storage" in limits


def test_disruption_budgets_are_of_the_only_kind_that_is_allowed() -> None:
    """For pods whose owner has no scale subresource, Kubernetes accepts an integer minAvailable only."""
    budgets = [d["spec"] for d in documents(KUBERAY / "support.yaml") if d["kind"] == "PodDisruptionBudget"]
    assert budgets
    for budget in budgets:
        assert isinstance(budget["minAvailable"], int) and "maxUnavailable" not in budget


def test_an_update_of_the_service_has_no_gap() -> None:
    (service,) = documents(KUBERAY / "rayservice.yaml")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    smallest, largest = application["args"]["replicas"]
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert smallest >= 2 and (group["minReplicas"], group["maxReplicas"]) == (smallest, largest)


def test_secrets_are_named_and_never_written() -> None:
    for path in (ROOT / "cluster").rglob("*.yaml"):
        for document in documents(path):
            assert (document or {}).get("kind") != "Secret", path
        assert not re.search(
            r"(?i)(password|token|secret|access_key)\w*: *['\"]?[A-Za-z0-9+/]{16,}", path.read_text()
        ), path


def test_the_objects_that_the_cluster_refers_to_exist() -> None:
    support = documents(KUBERAY / "support.yaml")
    names = {(d["kind"], d["metadata"]["name"]) for d in support}
    (cluster,) = documents(KUBERAY / "raycluster.yaml")
    spec = cluster["spec"]
    pods = [spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])]
    assert {("ServiceAccount", p["spec"]["serviceAccountName"]) for p in pods} <= names
    host = spec["gcsFaultToleranceOptions"]["redisAddress"].removeprefix("redis://").split(":")[0]
    assert ("Service", host) in names and ("StatefulSet", host) in names
    for budget in (d for d in support if d["kind"] == "PodDisruptionBudget"):
        wanted = {k: v for k, v in budget["spec"]["selector"]["matchLabels"].items() if not k.startswith("ray.io/")}
        assert wanted and all(wanted.items() <= p["metadata"]["labels"].items() for p in pods)


def test_the_service_imports_an_existing_object() -> None:
    (service,) = documents(KUBERAY / "rayservice.yaml")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, attribute = application["import_path"].split(":")
    file = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    if not file.exists():
        pytest.skip(f"{module} is not written yet")
    assert re.search(rf"^(def {attribute}\(|{attribute}\b.*=)", file.read_text(), re.MULTILINE)


def _changed(path: Path, place: list[Any], value: object) -> Cluster:
    data = copy.deepcopy(yaml.safe_load(path.read_text()))
    node = data
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return parse_cluster(data)


TYPES = "available_node_types"
SPEC = ["spec", "headGroupSpec"]
BAD = [
    (AWS, [TYPES, "train", "max_workers"], 1, "needs 8 workers of 6 CPUs and a GPU; the nodes labelled train hold 4"),
    (AWS, [TYPES, "train", "resources"], {"CPU": 5, "GPU": 4}, "the nodes labelled train hold 0"),
    (AWS, [TYPES, "train", "labels"], {}, "train: its label s2v-role is ''"),
    (AWS, [TYPES, "head", "resources"], {"CPU": 4}, "the head offers CPUs"),
    (AWS, [TYPES, "head", "node_config", "InstanceMarketOptions"], {"MarketType": "spot"}, "the head is a spot node"),
    (AWS, [TYPES, "ingest", "resources"], {"CPU": 32, "GPU": 1}, "ingest would hold GPUs"),
    (AWS, [TYPES, "ingest", "labels"], {"s2v-role": "driver"}, "only the head"),
    (AWS, ["docker", "image"], "r/s2v_ray:ray2.59.0-py3.11-cpu", "the image has ray 2.59.0"),
    (AWS, ["docker", "image"], "r/s2v_ray:ray2.60.0-py3.12-cpu", "on Python 3.12"),
    (AWS, ["docker", "image"], "r/s2v_ray:ray2.60.0-py3.11-gpu", "it has 0 GPUs, and the image for GPU nodes"),
    (AWS, [TYPES, "train", "docker"], {}, "it has 4 GPUs, and the image for CPU nodes"),
    (AWS, ["docker", "image"], "r/s2v_ray:latest", "does not name versions"),
    (AWS, ["file_mounts"], {}, "token authentication is off"),
    (AWS, ["docker", "run_options"], [], "token authentication is off"),
    (
        AWS,
        ["docker", "run_options"],
        ["--env RAY_AUTH_MODE=token", "--env RAY_AUTH_TOKEN=abc"],
        "written in clear: RAY_AUTH_TOKEN",
    ),
    (RAYCLUSTER, ["spec", "rayVersion"], "2.59.0", "rayVersion is 2.59.0"),
    (RAYCLUSTER, ["spec", "authOptions"], {}, "token authentication is off"),
    (
        RAYCLUSTER,
        ["spec", "gcsFaultToleranceOptions", "redisPassword"],
        {"value": "x"},
        "written in clear: redisPassword",
    ),
    (RAYCLUSTER, [*SPEC, "rayStartParams"], {}, "the head offers CPUs"),
    (
        RAYCLUSTER,
        [*SPEC, "template", "spec", "containers", 0, "env"],
        [{"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}],
        "head.AWS_SECRET",
    ),
]


@pytest.mark.parametrize(("path", "place", "value", "message"), BAD)
def test_every_problem_is_found(path: Path, place: list[Any], value: object, message: str) -> None:
    found = find_problems(_changed(path, place, value), pins(), FULL)
    assert any(message in p for p in found), found


def test_pins_must_agree() -> None:
    pyproject = 'dependencies = ["ray[data]==2.60.*"]\npython_version = "3.11"\n'
    assert read_pins("numpy==2.0\nray==2.60.1\n", pyproject) == Pins("2.60.1", "3.11")
    with pytest.raises(ManifestError, match="pin ray 2.61.0, pyproject.toml asks for 2.60"):
        read_pins("ray==2.61.0\n", pyproject)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "kind: RayCluster", "spec: {}\nmetadata: {name: x}"])
def test_a_file_that_is_not_a_manifest(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ManifestError):
        load_cluster(str(tmp_path / "x.yaml"))
