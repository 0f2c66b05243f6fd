"""What Ray's AWS provider calls for ``cluster/aws.yaml``, on moto's EC2 and IAM, compared with the head's policy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from aiobotocore.client import AioBaseClient
from botocore.exceptions import ClientError
from moto.backends import get_backend
from moto.server import ThreadedMotoServer
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter

from s2v_ray import conditional, storage

CLUSTER = Path(__file__).parents[2] / "cluster"
IMPLIED = {
    "iam:PassRole",  # RunInstances with a profile
    "iam:CreateServiceLinkedRole",  # the first spot instance of an account
}
"""Rights that a call of another service needs, and that have no call of their own."""
WAIT_SECONDS = 30

PULL = {"ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
"""Rights of `docker login` and `docker pull`, as in AWS's policy AmazonEC2ContainerRegistryPullOnly."""
S3_RIGHTS = {
    "AbortMultipartUpload": "AbortMultipartUpload",
    "CompleteMultipartUpload": "PutObject",
    "CreateMultipartUpload": "PutObject",
    "DeleteObject": "DeleteObject",
    "DeleteObjects": "DeleteObject",
    "GetObject": "GetObject",
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "PutObject": "PutObject",
    "UploadPart": "PutObject",
}
"""Operation of S3 -> the right that it needs, as AWS's service authorization reference lists them."""
MULTIPART_BYTES = 2 * 50 * 2**20
"""More than s3fs writes in one request."""

Call = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """moto's server: its in-process mock would remove the buckets of the S3 server of other tests."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def calls(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Call]]:
    """Every call to AWS by its IAM action and parameters; the account has the roles that docs/clusters.md asks for."""
    found: list[Call] = []

    def record(params: dict[str, Any], model: Any, **_: Any) -> None:
        found.append((f"{model.service_model.service_name}:{model.name}", params))

    own = {"AWS_ENDPOINT_URL": server, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in (own | dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))  # the key pair that Ray makes
    for service in ("ec2", "iam"):
        for account in get_backend(service).values():  # ``reset`` of the whole would remove other tests' buckets
            account.reset()
    for cache in (aws_utils.resource_cache, aws_utils.client_cache, aws_config._get_subnets_or_die):
        cache.cache_clear()
    iam = boto3.client("iam")
    for name in ("s2v-head", "s2v-worker"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    boto3.setup_default_session()
    assert boto3.DEFAULT_SESSION is not None
    boto3.DEFAULT_SESSION.events.register("provide-client-params.*.*", record)
    yield found
    boto3.setup_default_session()


def launched(calls: list[Call], tmp_path: Path) -> tuple[NodeProviderAdapter, dict[str, Any]]:
    """What `ray up` does on the user's machine, bootstrap and the head; gives the provider of the head's autoscaler."""
    raw = (
        (CLUSTER / "aws.yaml")
        .read_text()
        .replace("ami-REPLACE", boto3.client("ec2").describe_images()["Images"][0]["ImageId"])
    )
    config = AWSNodeProvider.bootstrap_config(prepare_config(yaml.safe_load(raw)))
    head = config["available_node_types"]["head"]["node_config"]
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    provider.create_node(head, {TAG_RAY_NODE_KIND: NODE_KIND_HEAD, TAG_RAY_USER_NODE_TYPE: "head"}, 1)
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(config))
    calls.clear()
    on_head = AWSNodeProvider(config["provider"], config["cluster_name"])
    return NodeProviderAdapter(on_head, FileConfigReader(str(file))), config


def work(adapter: NodeProviderAdapter) -> dict[str, Any]:
    """A node of each type for workers is started, tagged as its installation advances, and ended; gives the nodes."""
    adapter.launch({"train": 1, "ingest": 1}, request_id="r")
    end = time.monotonic() + WAIT_SECONDS
    while len(nodes := adapter.get_non_terminated()) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    assert adapter.poll_errors() == []
    for node in nodes:
        adapter.v1_provider.set_node_tags(node, {TAG_RAY_NODE_STATUS: "up-to-date"})
    workers = {name: node for name, node in nodes.items() if node.node_type != "head"}
    described = {
        i["InstanceId"]: i for r in boto3.client("ec2").describe_instances()["Reservations"] for i in r["Instances"]
    }
    adapter.terminate(list(workers), request_id="t")
    while len(adapter.get_non_terminated()) > 1 and time.monotonic() < end:
        time.sleep(0.1)
    assert len(adapter.get_non_terminated()) == 1, "the head stays"
    return {node.node_type: described[name] for name, node in workers.items()}


def statements(name: str = "iam-head") -> dict[str, dict[str, Any]]:
    return {s["Sid"]: s for s in json.loads((CLUSTER / f"{name}.json").read_text())["Statement"]}


def granted(name: str = "iam-head") -> set[str]:
    found: set[str] = set()
    for statement in statements(name).values():
        found |= {statement["Action"]} if isinstance(statement["Action"], str) else set(statement["Action"])
    return found


def test_nodes_are_what_the_config_says(calls: list[Call], tmp_path: Path) -> None:
    adapter, _ = launched(calls, tmp_path)
    nodes = work(adapter)
    assert {name: node["InstanceType"] for name, node in nodes.items()} == {
        "train": "g5.12xlarge",
        "ingest": "c6i.8xlarge",
    }
    assert nodes["train"]["InstanceLifecycle"] == "spot" and "InstanceLifecycle" not in nodes["ingest"]
    for node in nodes.values():
        assert node["IamInstanceProfile"]["Arn"].endswith("/s2v-worker")
        assert {"Key": "ray-cluster-name", "Value": "s2v"} in node["Tags"]


def test_the_head_has_the_rights_that_it_uses_and_no_others(calls: list[Call], tmp_path: Path) -> None:
    adapter, _ = launched(calls, tmp_path)
    work(adapter)
    assert granted() == {action for action, _ in calls} | IMPLIED


def test_its_calls_meet_the_conditions(calls: list[Call], tmp_path: Path) -> None:
    adapter, _ = launched(calls, tmp_path)
    work(adapter)
    rules = statements()
    condition = rules["StartOnlyWorkersOfThisCluster"]["Condition"]["StringEquals"]
    taggable = {r.rpartition(":")[2].partition("/")[0] for r in rules["TagAtTheStart"]["Resource"]}
    started = [parameters for action, parameters in calls if action == "ec2:RunInstances"]
    assert {p["InstanceType"] for p in started} == set(condition["ec2:InstanceType"])
    for parameters in started:
        tags = {s["ResourceType"]: {t["Key"]: t["Value"] for t in s["Tags"]} for s in parameters["TagSpecifications"]}
        assert tags["instance"]["ray-cluster-name"] == condition["aws:RequestTag/ray-cluster-name"]
        assert tags.keys() == taggable, "disks have the tag too, by which costs are divided"
        assert parameters["MetadataOptions"]["HttpTokens"] == condition["ec2:MetadataHttpTokens"]
    for action, parameters in calls:
        if action in ("ec2:CreateTags", "ec2:TerminateInstances"):
            assert all(i.startswith("i-") for i in parameters.get("Resources", parameters.get("InstanceIds")))


def test_workers_are_reached_only_from_inside_and_by_ssh(calls: list[Call], tmp_path: Path) -> None:
    _, config = launched(calls, tmp_path)
    (group,) = config["available_node_types"]["train"]["node_config"]["SecurityGroupIds"]
    (described,) = boto3.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    outside = [rule for rule in described["IpPermissions"] if rule.get("IpRanges")]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]


def test_nodes_have_the_rights_on_data_that_they_use_and_no_others(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that ``storage`` and ``conditional`` do, and the clean-up of an upload that fails."""
    operations: list[str] = []
    refused: list[str] = []
    call = AioBaseClient._make_api_call

    async def recorded(client: AioBaseClient, name: str, parameters: dict[str, Any]) -> Any:
        operations.append(name)
        if name in refused:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": ""}}, name)
        return await call(client, name, parameters)

    monkeypatch.setattr(AioBaseClient, "_make_api_call", recorded)
    root = storage.join(bucket, "data")
    one, shared = storage.join(root, "one"), storage.join(root, "shared")
    storage.check_writable(root)
    storage.write_bytes(one, b"1")
    storage.write_bytes(storage.join(root, "large"), bytes(MULTIPART_BYTES))
    assert storage.read_tail(one, 1) == storage.read_bytes(one) == b"1"
    storage.download(one, str(tmp_path))
    assert storage.exists(one) and len(storage.list_files(root)) == 2 and storage.fingerprint(root)
    conditional.write(shared, b"2", conditional.write(shared, b"1", None))
    assert conditional.read(shared)
    storage.remove(root)
    refused.append("UploadPart")
    with pytest.raises(OSError):
        storage.write_bytes(storage.join(root, "large"), bytes(MULTIPART_BYTES))
    assert granted("iam-data") == {f"s3:{S3_RIGHTS[name]}" for name in operations} | PULL
