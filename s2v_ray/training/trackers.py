"""Loggers of a run for experiment trackers: MLflow, and Weights & Biases.

Address and secrets come from the environment, by the variables that the trackers define (``MLFLOW_TRACKING_URI``,
``MLFLOW_EXPERIMENT_NAME``, ``WANDB_API_KEY``, ``WANDB_PROJECT``, ``WANDB_MODE``).
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from s2v_ray import storage
from s2v_ray.config import digest
from s2v_ray.training.loggers import Sample, picture_of

PROJECT = "s2v_ray"
"""Default name of the experiment or project."""
CLOSE_SECONDS = 60.0
"""How long the end of a run waits for a tracker that does not answer."""
MLFLOW_BATCH = 1000
"""Largest number of metrics in a request, by MLflow's API."""
PARAM_CHARACTERS = 500

Entry = dict[str, Any]
"""A record with the key ``time``, milliseconds since 1970."""


class Outbox:
    """Records on their way to a tracker, in order. What cannot be sent is sent with the next record.

    What is left at the end of a run is stored in the run folder, and sent when the run is continued.

    Args:
        uri: file for what is left.
        send: sends entries, or raises and has sent none or may be called again with the same ones.
    """

    def __init__(self, uri: str, send: Callable[[Sequence[Entry]], None]) -> None:
        self.uri, self.send = uri, send
        self.pending: list[Entry] = []
        if storage.exists(uri):
            self.pending = [json.loads(line) for line in storage.read_bytes(uri).decode().splitlines()]

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a record, and send everything that is pending."""
        self.pending.append({**record, "time": int(1000 * time.time())})
        self.flush()

    def flush(self) -> None:
        """Send everything that is pending."""
        if self.pending:
            self.send(self.pending)
            self.pending = []

    def close(self, patience: float = CLOSE_SECONDS) -> None:
        """Try to send what is pending for ``patience`` seconds, then store it; the last error is raised."""
        until, pause = time.monotonic() + patience, 1.0
        while True:
            try:
                self.flush()
                break
            except Exception:  # the clients raise errors of many kinds
                if time.monotonic() + pause > until:
                    lines = "".join(json.dumps(entry) + "\n" for entry in self.pending)
                    storage.write_bytes(self.uri, lines.encode())
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
        storage.remove(self.uri)


class MlflowLogger:
    """A run of MLflow with the recipe as parameters, all records, and pictures of the samples.

    A continued run adds to the same run of MLflow.
    """

    def __init__(self, run: str, start_step: int) -> None:  # noqa: ARG002  # MLflow cannot hide entries
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ValueError("log.loggers: mlflow needs the package mlflow: pip install 's2v_ray[mlflow]'") from None
        # With the defaults, a request to a server that does not answer takes several minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.run, self._client, self._id = run, MlflowClient(), ""
        self._outbox = Outbox(storage.join(run, "trackers", "mlflow.jsonl"), self._send)

    def record(self, record: Mapping[str, Any]) -> None:
        """See ``RunLogger``."""
        self._outbox.add(record)

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """See ``RunLogger``."""
        with tempfile.TemporaryDirectory(prefix="s2v-mlflow-") as folder:
            path = Path(folder) / f"step-{step:08d}.png"
            cv2.imwrite(str(path), cv2.cvtColor(picture_of(samples), cv2.COLOR_RGB2BGR))
            self._client.log_artifact(self._run_id(), str(path), "samples")

    def close(self) -> None:
        """See ``RunLogger``."""
        self._outbox.close()
        self._client.set_terminated(self._run_id())

    def _send(self, entries: Sequence[Entry]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), entry["time"], int(entry["step"]))
            for entry in entries
            for name, value in entry.items()
            if name not in ("step", "time") and isinstance(value, int | float)
        ]
        for i in range(0, len(metrics), MLFLOW_BATCH):
            self._client.log_batch(self._run_id(), metrics[i : i + MLFLOW_BATCH])

    def _run_id(self) -> str:
        """The id of the run in MLflow, which is created with the first request that succeeds."""
        if self._id:
            return self._id
        from mlflow.entities import Param, RunTag

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        known = self._client.search_runs([number], f"tags.`s2v.run` = '{self.run}'")
        if known:
            self._id = known[0].info.run_id
            self._client.update_run(self._id, "RUNNING")
            return self._id
        recipe, tags = describe_run(self.run)
        created = self._client.create_run(number, run_name=self.run.rstrip("/").rpartition("/")[2])
        params = [Param(key, value[:PARAM_CHARACTERS]) for key, value in recipe.items()]
        self._client.log_batch(created.info.run_id, params=params, tags=[RunTag(*item) for item in tags.items()])
        self._id = str(created.info.run_id)
        return self._id


class WandbLogger:
    """A run of Weights & Biases with the recipe as config, all records, and pictures of the samples.

    Its own process sends what is logged, and keeps it while the server does not answer. With ``WANDB_MODE=offline``
    everything is in RUN/wandb, for `wandb sync`.
    """

    def __init__(self, run: str, start_step: int) -> None:  # noqa: ARG002  # entries have a step of their own
        try:
            import wandb
        except ImportError:
            raise ValueError("log.loggers: wandb needs the package wandb: pip install 's2v_ray[wandb]'") from None
        recipe, tags = describe_run(run)
        self.uri = run
        self._scratch = tempfile.TemporaryDirectory(prefix="s2v-wandb-")
        self._folder = Path(storage.local_path(run) or self._scratch.name)
        self._image, self._teardown = wandb.Image, wandb.teardown
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=digest(run),
            name=run.rstrip("/").rpartition("/")[2],
            config=recipe | tags,
            dir=str(self._folder),
            resume=None if os.environ.get("WANDB_MODE") == "offline" else "allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")  # its own count of steps cannot go back to a checkpoint

    def record(self, record: Mapping[str, Any]) -> None:
        """See ``RunLogger``."""
        self._run.log(dict(record))

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """See ``RunLogger``."""
        self._run.log({"step": step, "samples": self._image(picture_of(samples))})

    def close(self) -> None:
        """See ``RunLogger``."""
        self._run.finish()
        self._teardown()  # only then are all files complete
        if storage.local_path(self.uri) is None:
            for file in sorted(path for path in self._folder.rglob("*") if path.is_file()):
                target = storage.join(self.uri, str(file.relative_to(self._folder)))
                storage.write_bytes(target, file.read_bytes())
        self._scratch.cleanup()


def describe_run(run: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the recipe of a run as flat parameters, and its tags: URI, task, digests of config and parents."""
    manifest = storage.read_json(storage.join(run, storage.MANIFEST))
    names = ("task", "reference", "config_digest")
    tags = {"s2v.run": run, **{f"s2v.{name}": str(manifest[name]) for name in names}}
    tags |= {f"s2v.parent.{role}": str(value) for role, value in manifest["parents"].items()}
    return _flatten(manifest["recipe"]), tags


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
