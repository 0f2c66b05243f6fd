"""Starts or joins Ray, and selects the nodes for a kind of work. Every user of a Ray cluster calls ``start_ray``."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import ray
import ray.autoscaler.sdk
import ray.data

from s2v_ray import storage
from s2v_ray.config import ROLE_LABEL, Role

OBJECT_STORE_BYTES = 800_000_000
"""Object store of a Ray that is started on this machine. Only names of clips and decoded windows pass through it."""
START_ATTEMPTS = 3
"""A raylet gives its agent 15 s to start and then exits, which happens on a busy machine."""


def start_ray(*, local: bool = False, num_cpus: int | None = None) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one on this machine; do nothing if Ray is initialised.

    Args:
        local: starts one on this machine even if ``RAY_ADDRESS`` is set.
        num_cpus: CPUs of a cluster on this machine; None for all.
    """
    if ray.is_initialized():
        _quiet_data()
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if local or not os.environ.get("RAY_ADDRESS"):
        # Ray Train's watcher for machines that are taken away is a process that imports Ray Train; this machine is not.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # No dashboard: its processes take about 2% of a CPU, and the command line shows the run's progress.
        quiet |= {
            "address": "local",
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "num_cpus": num_cpus,
        }
    for left in reversed(range(START_ATTEMPTS)):
        try:
            ray.init(**quiet)
            break
        except Exception as e:  # Ray raises a bare Exception here
            ray.shutdown()
            if not left or "timed out during startup" not in str(e):
                raise
    _quiet_data()


def _quiet_data() -> None:
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def job_id() -> str:
    """Return the submission id of the Ray job that runs this process, or ""."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")  # set by Ray's job supervisor
    return str(config.get("metadata", {}).get("job_submission_id", ""))


def node_selector(role: Role) -> dict[str, str] | None:
    """Return the label selector for work of ``role``; None if the nodes have no role labels, as on a single machine.

    A cluster with role labels has, or can add, nodes for each role that it is used for: the manifests in ``cluster/``
    do.
    """
    return {ROLE_LABEL: role} if any(ROLE_LABEL in node["Labels"] for node in ray.nodes() if node["Alive"]) else None


def nodes_for(role: Role) -> list[dict[str, Any]]:
    """Return the living nodes that ``node_selector(role)`` selects, in the form of ``ray.nodes()``."""
    labels = (node_selector(role) or {}).items()
    return [node for node in ray.nodes() if node["Alive"] and labels <= node["Labels"].items()]


def request_nodes(bundles: list[dict[str, float]], selector: dict[str, str] | None = None) -> None:
    """Ask the autoscaler for nodes with room for all ``bundles``; [] withdraws an earlier request."""
    ray.autoscaler.sdk.request_resources(bundles=bundles, bundle_label_selectors=[selector or {}] * len(bundles))


def run_config_storage(uri: str) -> dict[str, Any]:
    """Return ``storage_path`` and ``storage_filesystem`` of a Ray run config, with our endpoint and retries."""
    if "://" not in uri:
        return {"storage_path": uri}
    import pyarrow.fs

    fs, path = storage.filesystem(uri)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}


def value_error_of(error: BaseException) -> ValueError | None:
    """Return the ValueError that a task or worker failed with, out of Ray's wrappers; None if it was something else."""
    pending: list[Any] = [error]
    while pending:
        e = pending.pop(0)
        if isinstance(e, ValueError) and not isinstance(e, ray.exceptions.RayError):
            return e
        if isinstance(e, BaseException):
            pending += [*getattr(e, "worker_failures", {}).values(), getattr(e, "controller_failure", None)]
            pending += [getattr(e, "_base_exc", None), getattr(e, "cause", None), e.__cause__]
    return None
