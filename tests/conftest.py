"""What every test gets: one compute thread, quiet Ray, and nothing from the developer's own cloud or cluster."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: more threads only fight
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # where a GPU is present, the tests marked gpu choose it themselves
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "180")  # a busy machine starts workers slowly
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.3")  # the end of a run is noticed within this time
PLUGINS = str(Path(__file__).parent / "plugins")
"""Modules outside the package that recipes name. Ray's workers find them too, like everything on PYTHONPATH."""
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [PLUGINS, os.environ.get("PYTHONPATH")]))
sys.path.append(PLUGINS)
os.environ.pop("RAY_ADDRESS", None)  # never join a cluster that happens to run here

FIRST = (
    "integration/test_chain.py",
    "serving/test_app.py",  # before a Ray instance is there: it needs one of its own
    "training/test_launch.py",
    "tuning/test_sweep.py",
    "ingest/test_ray_pipeline.py",
    "integration/test_extending.py",
    "training/engine/test_parity.py",
    "training/engine/test_reshard.py",
    "training/engine/test_deepspeed.py",
    "training/test_lease.py",
    "training/test_shares.py",
    "serving/test_page.py",
)
"""The files that take longest. They come first, so that all processes of the tests end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path, len(FIRST)))


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracing flag of the shell must not change what a test sees."""
    monkeypatch.delenv("S2V_DEBUG", raising=False)


@pytest.fixture(scope="session")
def s3_settings() -> Iterator[dict[str, str]]:
    """How to reach an S3 server.

    The one at ``S2V_TEST_S3``, with the credentials of the environment, or moto's, in a thread of this process.
    """
    if given := os.environ.get("S2V_TEST_S3"):
        yield {"AWS_ENDPOINT_URL": given}
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    known = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **known}
    server.stop()


@pytest.fixture(scope="session")
def s3_bucket(s3_settings: dict[str, str]) -> Iterator[str]:
    """The name of a bucket for these tests alone."""
    import boto3

    name = f"s2v-test-{uuid.uuid4().hex[:12]}"
    with pytest.MonkeyPatch.context() as patch:
        for key, value in s3_settings.items():
            patch.setenv(key, value)
        resource = boto3.resource("s3")
    bucket = resource.Bucket(name)
    bucket.create()
    yield name
    bucket.objects.delete()
    bucket.delete()


@pytest.fixture
def bucket(s3_settings: dict[str, str], s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``s3://BUCKET``, reached as users reach theirs: by environment variables."""
    from s3fs import S3FileSystem

    for name, value in s3_settings.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # fsspec would go on with the server of another test
    yield f"s3://{s3_bucket}"
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def _shared_ray() -> Iterator[None]:
    import ray

    yield
    ray.shutdown()


@pytest.fixture
def local_ray(_shared_ray: None) -> float:
    """The CPUs of the Ray instance that all tests share; it is started where none runs, and stopped at the end."""
    import ray

    from s2v_ray.cluster.runtime import start_ray

    start_ray()
    return float(ray.cluster_resources()["CPU"])


NEEDS_MLFLOW = pytest.mark.skipif("S2V_TEST_MLFLOW" not in os.environ, reason="S2V_TEST_MLFLOW")
"""S2V_TEST_MLFLOW: the program mlflow of an installation with its server; the server's packages conflict with ours."""


@pytest.fixture(params=["files", pytest.param("server", marks=NEEDS_MLFLOW)])
def mlflow_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a store of MLflow: a folder, or a server with sqlite."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
        yield f"file://{tmp_path}/store"
        return
    from tests.helpers.mlflow_store import mlflow_server

    with mlflow_server(os.environ["S2V_TEST_MLFLOW"], tmp_path) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield address
