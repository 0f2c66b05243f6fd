"""What a tracker shows of an artifact, and the table of trackers."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s2v_ray import storage

logger = logging.getLogger(__name__)

PROJECT = "s2v_ray"
"""Default name of the experiment or project."""


@dataclass(frozen=True)
class Entry:
    """A run, a sweep, an evaluation or a bundle as a tracker shows it.

    Attributes:
        kind: "run", "sweep", "evaluation" or "bundle".
        uri: of the artifact; it identifies the entry, so an artifact that is published again has one entry.
        config: the recipe as flat parameters.
        tags: lineage.
        figures: results, name -> value.
        files: name -> URI of reports, videos and cards.
        parent: URI of the artifact under whose entry this one is shown, or "".
    """

    kind: str
    uri: str
    config: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    parent: str = ""

    @property
    def name(self) -> str:
        """The name that a tracker shows: the last parts of the URI."""
        parts = self.uri.rstrip("/").split("/")
        return "/".join(parts[-2:]) if self.kind == "bundle" else parts[-1]

    @contextlib.contextmanager
    def local_files(self) -> Iterator[Path]:
        """A temporary folder with copies of the files."""
        with tempfile.TemporaryDirectory(prefix="s2v-tracking-") as folder:
            for name, uri in self.files.items():
                (Path(folder) / name).write_bytes(storage.read_bytes(uri))
            yield Path(folder)


def lineage(parents: Mapping[str, Any], **tags: Any) -> dict[str, str]:
    """Return tags: ``s2v.NAME`` for each of ``tags``, ``s2v.parent.ROLE`` for the digest of each parent artifact."""
    named = {f"s2v.{name}": str(value) for name, value in tags.items()}
    return named | {f"s2v.parent.{role}": str(value) for role, value in parents.items() if isinstance(value, str)}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values as one mapping from dotted names to text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def publish(loggers: Sequence[str], entry: Entry) -> None:
    """Write the entry of an artifact to the trackers among ``loggers``; an existing entry is completed.

    The artifact is stored already, so a tracker that does not answer is reported and does not end the command.

    Args:
        loggers: ``log.loggers`` of the recipe; those without entries of artifacts are skipped.
        entry: of the artifact.
    """
    for name in loggers:
        if name in TRACKERS:
            try:
                TRACKERS[name](entry)
            except Exception as e:  # the clients raise errors of many kinds
                logger.warning(
                    "%s got no entry of the %s %s (%s): the same command again adds it",
                    name,
                    entry.kind,
                    entry.uri,
                    storage.scrub(str(e)),
                )


def _publish_to_mlflow(entry: Entry) -> None:
    from s2v_ray.tracking.mlflow_runs import MlflowRuns

    MlflowRuns().publish(entry)


def _publish_to_wandb(entry: Entry) -> None:
    from s2v_ray.tracking.wandb_runs import publish_entry

    publish_entry(entry)


TRACKERS: dict[str, Callable[[Entry], None]] = {"mlflow": _publish_to_mlflow, "wandb": _publish_to_wandb}
"""Trackers with entries of artifacts. All loggers of runs are in ``training.loggers.LOGGERS``."""
