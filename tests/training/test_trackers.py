"""Experiment trackers: MLflow (its file store, and a real server where one is named) and W&B offline."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.training import trackers
from s2v_ray.training.loggers import LOGGERS, RunLogger, Sample
from s2v_ray.training.trackers import Outbox, describe_run
from tests.helpers.servers import free_port

SERVER = os.environ.get("S2V_TEST_MLFLOW", "")
"""The program mlflow of an installation with its server; the server's packages conflict with ours."""


@pytest.fixture
def run(tmp_path: Path) -> str:
    uri = str(tmp_path / "runs" / "generator")
    fields = {"task": "gan", "reference": False, "recipe": {"seed": 0, "gan": {"lr": 0.5}}, "config_digest": "abc"}
    storage.write_manifest(uri, "run", 3, parents={"corpus": "def"}, **fields)
    return uri


def sample() -> Sample:
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    return Sample("clip", frames, frames, np.zeros(8 * 640, np.float32))


def test_the_recipe_is_flat_and_parents_are_tags(run: str) -> None:
    recipe, tags = describe_run(run)
    assert recipe == {"seed": "0", "gan.lr": "0.5"}
    parents = {"s2v.parent.corpus": "def"}
    assert tags == {"s2v.run": run, "s2v.task": "gan", "s2v.reference": "False", "s2v.config_digest": "abc", **parents}


class Tracker:
    """Accepts entries while it is up."""

    def __init__(self) -> None:
        self.up, self.got, self.calls = True, list[int](), 0

    def send(self, entries: Sequence[dict[str, Any]]) -> None:
        self.calls += 1
        if not self.up:
            raise ConnectionError("no answer")
        self.got += [entry["step"] for entry in entries]


def test_records_of_an_outage_are_sent_later_and_in_order(tmp_path: Path) -> None:
    tracker = Tracker()
    outbox = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    outbox.add({"step": 1})
    tracker.up = False
    for step in (2, 3):
        with pytest.raises(ConnectionError):
            outbox.add({"step": step})
    tracker.up = True
    outbox.add({"step": 4})
    outbox.close()
    assert tracker.got == [1, 2, 3, 4]
    assert not (tmp_path / "left.jsonl").exists()


def test_what_is_left_at_the_end_is_sent_when_the_run_is_continued(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.up = False
    outbox = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    with pytest.raises(ConnectionError):
        outbox.add({"step": 1, "loss": 0.5})
    with pytest.raises(ConnectionError):
        outbox.close(patience=0.0)
    tracker.up = True
    continued = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    continued.add({"step": 2})
    continued.close()
    assert tracker.got == [1, 2]
    assert not (tmp_path / "left.jsonl").exists()


def test_the_end_of_a_run_waits_for_a_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker()
    outbox = Outbox(str(tmp_path / "left.jsonl"), tracker.send)
    tracker.up = False
    with pytest.raises(ConnectionError):
        outbox.add({"step": 1})
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        tracker.up = len(slept) == 3

    monkeypatch.setattr(trackers.time, "sleep", sleep)
    outbox.close(patience=100.0)
    assert (tracker.got, slept) == ([1], [1.0, 2.0, 4.0])


@pytest.fixture(
    params=["files", pytest.param("server", marks=pytest.mark.skipif(not SERVER, reason="S2V_TEST_MLFLOW"))]
)
def mlflow_store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a store of MLflow: a folder, or a server with sqlite."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
        yield f"file://{tmp_path}/store"
        return
    port = free_port()
    options = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
    ]
    server = subprocess.Popen(
        [SERVER, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/health")
            break
        except OSError:
            time.sleep(0.5)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    yield address
    os.killpg(server.pid, 15)
    server.wait()


def test_a_run_in_mlflow_has_recipe_records_and_pictures(mlflow_store: str, run: str) -> None:
    from mlflow import MlflowClient

    logger: RunLogger = LOGGERS["mlflow"](run, 0)
    logger.record({"step": 50, "loss": 0.5, "alarms": ["sync"]})
    logger.record({"step": 50, "val_psnr": 21.0})
    logger.samples(50, [sample()])
    logger.close()
    continued: RunLogger = LOGGERS["mlflow"](run, 50)
    continued.record({"step": 100, "loss": 0.25})
    continued.close()
    client = MlflowClient(mlflow_store)
    experiment = client.get_experiment_by_name("s2v_ray")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "generator" and found.info.status == "FINISHED"
    assert found.data.params == {"seed": "0", "gan.lr": "0.5"}
    assert found.data.tags["s2v.parent.corpus"] == "def"
    losses = client.get_metric_history(found.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in losses) == [(50, 0.5), (100, 0.25)]
    assert found.data.metrics["val_psnr"] == 21.0
    assert [a.path for a in client.list_artifacts(found.info.run_id, "samples")] == ["samples/step-00000050.png"]


def test_a_server_that_cannot_be_reached_loses_no_record(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.0)
    logger = LOGGERS["mlflow"](run, 0)
    for step in (1, 2):
        with pytest.raises(Exception, match="127.0.0.1"):
            logger.record({"step": step, "loss": 0.5})
    with pytest.raises(Exception, match="127.0.0.1"):
        logger._outbox.close(0.0)  # type: ignore[attr-defined]  # the logger of MLflow
    left = (Path(run) / "trackers" / "mlflow.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in left] == [1, 2]


def entries_of(content: bytes) -> Iterator[bytes]:
    """Entries of a file of W&B: 7 bytes of header, then LevelDB's log format (blocks of 32 KiB, entries in parts)."""
    at, entry = 7, b""
    while at + 7 <= len(content):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<4xHB", content[at : at + 7])
        entry += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def test_wandb_offline_writes_everything_into_the_run(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    logger: RunLogger = LOGGERS["wandb"](run, 0)
    logger.record({"step": 50, "loss": 0.5})
    logger.samples(50, [sample()])
    logger.record({"step": 25, "loss": 0.75})  # after a step back to a checkpoint
    logger.close()
    (file,) = Path(run).glob("wandb/offline-run-*/run-*.wandb")
    losses, config = [], ""
    for data in entries_of(file.read_bytes()):
        entry = wandb_internal_pb2.Record()
        entry.ParseFromString(data)
        items = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in entry.history.item}
        if "loss" in items:
            losses.append((items["step"], items["loss"]))
        config += "".join(item.key for item in entry.run.config.update)
    assert losses == [("50", "0.5"), ("25", "0.75")]
    assert "gan.lr" in config and "s2v.parent.corpus" in config


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_without_the_package_the_message_names_the_extra(name: str, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ValueError, match=rf"s2v_ray\[{name}\]"):
        LOGGERS[name](run, 0)
