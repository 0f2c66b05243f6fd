"""Entries of artifacts as runs of MLflow, which are found again by the URI of the artifact."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2v_ray.config import digest
from s2v_ray.tracking.entries import PROJECT, Entry

BATCH = 1000
"""Largest number of metrics in a request, by MLflow's API."""
PARAM_BATCH = 100
"""Largest number of parameters in a request, by MLflow's API."""
PARAM_CHARACTERS = 500
ID_TAG = "s2v.id"
"""Tag by which a run is found: the digest of the artifact's URI, which needs no quotation marks in a search."""
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own tag: its page shows a run under the one that this names."""

Metric = tuple[str, float, int, int]
"""Name, value, milliseconds since 1970, step."""


class MlflowRuns:
    """The runs of the experiment that ``MLFLOW_EXPERIMENT_NAME`` names.

    Raises:
        ValueError: the package mlflow is not installed.
    """

    def __init__(self) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ValueError("MLflow needs the package mlflow: pip install 's2v_ray[mlflow]'") from None
        # With the defaults, a request to a server that does not answer takes several minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.client = MlflowClient()
        self._number = ""

    def publish(self, entry: Entry) -> None:
        """Write an entry with its figures and files, and end its run."""
        run = self.open(entry)
        now = int(1000 * time.time())
        self.log(run, [(name, value, now, 0) for name, value in entry.figures.items()])
        with entry.local_files() as folder:
            self.add_files(run, folder)
        self.client.set_terminated(run)

    def open(self, entry: Entry) -> str:
        """Return the id of an entry's run, which is created or continued."""
        known = self.find(entry.uri)
        if known:
            self.client.update_run(known, "RUNNING")
            return known
        from mlflow.entities import Param

        tags = {ID_TAG: digest(entry.uri), "s2v.uri": entry.uri, "s2v.kind": entry.kind, **entry.tags}
        parent = self.find(entry.parent) if entry.parent else ""
        if parent:
            tags[PARENT_TAG] = parent
        run = str(self.client.create_run(self._experiment(), run_name=entry.name, tags=tags).info.run_id)
        params = [Param(_name(key), value[:PARAM_CHARACTERS]) for key, value in entry.config.items()]
        for i in range(0, len(params), PARAM_BATCH):
            self.client.log_batch(run, params=params[i : i + PARAM_BATCH])
        return run

    def find(self, uri: str) -> str:
        """Return the id of the run of an artifact, "" if there is none; of several, the oldest."""
        named = f"tags.`{ID_TAG}` = '{digest(uri)}'"
        found = self.client.search_runs([self._experiment()], named, max_results=1, order_by=["start_time ASC"])
        return str(found[0].info.run_id) if found else ""

    def log(self, run: str, metrics: Sequence[Metric]) -> None:
        """Write metrics to a run."""
        from mlflow.entities import Metric as MlflowMetric

        rows = [MlflowMetric(_name(name), float(value), at, step) for name, value, at, step in metrics]
        for i in range(0, len(rows), BATCH):
            self.client.log_batch(run, metrics=rows[i : i + BATCH])

    def add_files(self, run: str, folder: Path, path: str | None = None) -> None:
        """Upload the files of a folder as artifacts of a run, below ``path``."""
        if any(folder.iterdir()):
            self.client.log_artifacts(run, str(folder), path)

    def _experiment(self) -> str:
        if not self._number:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found: Any = self.client.get_experiment_by_name(name)
            self._number = str(found.experiment_id if found else self.client.create_experiment(name))
        return self._number


def _name(text: str) -> str:
    """Return a name that MLflow accepts: it refuses most punctuation."""
    return re.sub(r"[^\w\-. /]", "", text)
