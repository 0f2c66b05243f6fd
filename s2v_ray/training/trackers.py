"""Loggers of a run for experiment trackers: MLflow, and Weights & Biases."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from s2v_ray import storage
from s2v_ray.tracking.entries import Entry, flatten, lineage
from s2v_ray.tracking.mlflow_runs import MlflowRuns
from s2v_ray.tracking.outbox import Outbox, Record
from s2v_ray.tracking.wandb_runs import WandbRun
from s2v_ray.training.loggers import Sample, picture_of


class MlflowLogger:
    """A run of MLflow with the recipe as parameters, all records, and pictures and videos of the samples.

    A continued run adds to the same run of MLflow.
    """

    def __init__(self, run: str, start_step: int) -> None:  # noqa: ARG002  # MLflow cannot hide entries
        self.run, self._runs, self._id = run, MlflowRuns(), ""
        self._outbox = Outbox(storage.join(run, "trackers", "mlflow.jsonl"), self._send)

    def record(self, record: Mapping[str, Any]) -> None:
        """See ``RunLogger``."""
        self._outbox.add(record)

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """See ``RunLogger``."""
        with tempfile.TemporaryDirectory(prefix="s2v-mlflow-") as name:
            folder = Path(name)
            cv2.imwrite(str(folder / f"step-{step:08d}.png"), cv2.cvtColor(picture_of(samples), cv2.COLOR_RGB2BGR))
            for sample in samples:
                (folder / sample.file(step)).write_bytes(sample.video)
            self._runs.add_files(self._run_id(), folder, "samples")

    def close(self) -> None:
        """See ``RunLogger``."""
        self._outbox.close()
        self._runs.client.set_terminated(self._run_id())

    def _send(self, records: Sequence[Record]) -> None:
        metrics = [
            (name, float(value), record["time"], int(record["step"]))
            for record in records
            for name, value in record.items()
            if name not in ("step", "time") and isinstance(value, int | float)
        ]
        self._runs.log(self._run_id(), metrics)

    def _run_id(self) -> str:
        """The id of the run in MLflow, which is created with the first request that succeeds."""
        self._id = self._id or self._runs.open(describe_run(self.run))
        return self._id


class WandbLogger:
    """A run of Weights & Biases with the recipe as config, all records, and pictures and videos of the samples."""

    def __init__(self, run: str, start_step: int) -> None:  # noqa: ARG002  # entries have a step of their own
        self._opened = WandbRun(describe_run(run))
        self._run, self._wandb = self._opened.run, self._opened.wandb
        self._run.define_metric("*", step_metric="step")  # its own count of steps cannot go back to a checkpoint

    def record(self, record: Mapping[str, Any]) -> None:
        """See ``RunLogger``."""
        self._run.log(dict(record))

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """See ``RunLogger``."""
        with tempfile.TemporaryDirectory(prefix="s2v-wandb-") as folder:
            videos = []
            for sample in samples:
                file = Path(folder) / sample.file(step)
                file.write_bytes(sample.video)
                videos.append(self._wandb.Video(str(file), format="mp4"))
            self._run.log({"step": step, "samples": self._wandb.Image(picture_of(samples)), "sample videos": videos})

    def close(self) -> None:
        """See ``RunLogger``."""
        self._opened.close()


def describe_run(run: str) -> Entry:
    """Return the entry of a run: its recipe, task, digests of config and parents; the sweep of a trial's run."""
    manifest = storage.read_json(storage.join(run, storage.MANIFEST))
    names = ("task", "reference", "config_digest")
    tags = lineage(manifest["parents"], **{name: manifest[name] for name in names})
    return Entry("run", run, flatten(manifest["recipe"]), tags, parent=manifest.get("sweep", ""))
