"""Loggers of a run: MLflow (its file store, and a real server where one is named) and W&B offline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from s2v_ray import storage
from s2v_ray.training.loggers import LOGGERS, RunLogger, Sample
from s2v_ray.training.trackers import describe_run
from tests.helpers.wandb_file import records


@pytest.fixture
def run(tmp_path: Path) -> str:
    uri = str(tmp_path / "runs" / "generator")
    fields = {"task": "gan", "reference": False, "recipe": {"seed": 0, "gan": {"lr": 0.5}}, "config_digest": "abc"}
    storage.write_manifest(uri, "run", 3, parents={"corpus": "def"}, **fields)
    return uri


def sample() -> Sample:
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    return Sample("clip", frames, frames, np.zeros(8 * 640, np.float32))


def test_the_entry_of_a_run_has_its_recipe_and_its_lineage(run: str) -> None:
    entry = describe_run(run)
    assert entry.config == {"seed": "0", "gan.lr": "0.5"}
    parents = {"s2v.parent.corpus": "def"}
    assert entry.tags == {"s2v.task": "gan", "s2v.reference": "False", "s2v.config_digest": "abc", **parents}
    assert (entry.kind, entry.uri, entry.name, entry.parent) == ("run", run, "generator", "")


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
    files = [a.path for a in client.list_artifacts(found.info.run_id, "samples")]
    assert sorted(files) == ["samples/step-00000050-clip.mp4", "samples/step-00000050.png"]


def test_a_server_that_cannot_be_reached_loses_no_record(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = LOGGERS["mlflow"](run, 0)
    for step in (1, 2):
        with pytest.raises(Exception, match="127.0.0.1"):
            logger.record({"step": step, "loss": 0.5})
    with pytest.raises(Exception, match="127.0.0.1"):
        logger._outbox.close(0.0)  # type: ignore[attr-defined]  # the logger of MLflow
    left = (Path(run) / "trackers" / "mlflow.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in left] == [1, 2]


def test_wandb_offline_writes_everything_into_the_run(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger: RunLogger = LOGGERS["wandb"](run, 0)
    logger.record({"step": 50, "loss": 0.5})
    logger.samples(50, [sample()])
    logger.record({"step": 25, "loss": 0.75})  # after a step back to a checkpoint
    logger.close()
    (file,) = Path(run).glob("wandb/offline-run-*/run-*.wandb")
    losses, config = [], ""
    for entry in records(file):
        items = {item.nested_key[0] if item.nested_key else item.key: item.value_json for item in entry.history.item}
        if "loss" in items:
            losses.append((items["step"], items["loss"]))
        config += "".join(item.key for item in entry.run.config.update)
    assert losses == [("50", "0.5"), ("25", "0.75")]
    assert "gan.lr" in config and "s2v.parent.corpus" in config
    media = sorted(path.suffix for path in Path(run).rglob("wandb/offline-run-*/files/media/**/*") if path.is_file())
    assert media == [".mp4", ".png"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_without_the_package_the_message_names_the_extra(name: str, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ValueError, match=rf"s2v_ray\[{name}\]"):
        LOGGERS[name](run, 0)
