"""The model registry of MLflow: versions of bundles by name, and aliases such as "champion"."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from s2v_ray import storage
from s2v_ray.config import digest
from s2v_ray.tracking.entries import Entry
from s2v_ray.tracking.mlflow_runs import MlflowRuns

SCHEME = "models:/"
FOLDER = "bundle"
"""Path of a bundle among the artifacts of its run of MLflow."""
ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def register(entry: Entry, files: Sequence[str], target: str) -> dict[str, str]:
    """Add a bundle to the registry as the next version of a model.

    The files become artifacts of the run of MLflow for this bundle, so the registry does not need the bundle's folder.

    Args:
        entry: of the bundle.
        files: names of the bundle's files.
        target: NAME, or NAME@ALIAS: the alias then names this version. The model is created if there is none.

    Returns:
        ``model`` (the name), ``version``, ``address`` (models:/NAME/VERSION).

    Raises:
        ValueError: ``target`` is not such a name, or mlflow is not installed.
        StoreError: the tracking server refuses or does not respond.
    """
    name, _, alias = target.partition("@")
    if not ADDRESS.fullmatch(f"{SCHEME}{name}@{alias or 'x'}"):
        raise ValueError(f"{target!r} is not the name of a registered model: NAME, or NAME@ALIAS")
    runs = MlflowRuns()
    from mlflow.exceptions import MlflowException

    copied = Entry("bundle", entry.uri, files={file: storage.join(entry.uri, file) for file in files})
    try:
        run = runs.open(entry)
        with copied.local_files() as folder:
            runs.add_files(run, folder, FOLDER)
        try:
            runs.client.create_registered_model(name)
        except MlflowException as e:
            if e.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{runs.client.get_run(run).info.artifact_uri}/{FOLDER}"
        version = str(runs.client.create_model_version(name, source, run, tags=dict(entry.tags)).version)
        if alias:
            runs.client.set_registered_model_alias(name, alias, version)
        runs.client.set_terminated(run)
    except MlflowException as e:
        raise storage.StoreError(f"MLflow did not register {entry.uri} as {target}: {storage.scrub(str(e))}") from e
    return {"model": name, "version": version, "address": f"{SCHEME}{name}/{version}"}


def open_model(address: str, cache: Path | None = None) -> str:
    """Return the URI of a registered bundle.

    A bundle that is stored in S3 or in a folder is used where it is. One that the tracking server alone gives access
    to is copied to ``cache``; a copy of a version does not change, so it is made once.

    Args:
        address: models:/NAME@ALIAS or models:/NAME/VERSION.
        cache: folder for copies; None: ~/.cache/s2v_ray/models.

    Raises:
        ValueError: ``address`` is not such an address, or mlflow is not installed.
        StoreError: there is no such version, or the tracking server does not respond.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise ValueError(f"{address} is not the address of a registered model: models:/NAME@ALIAS or models:/NAME/7")
    client = MlflowRuns().client
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    name, version = found["name"], found["version"]
    try:
        if found["alias"]:
            version = str(client.get_model_version_by_alias(name, found["alias"]).version)
        source: str = client.get_model_version_download_uri(name, version)
        if source.startswith(("s3://", "file://", "/")):
            return source.removeprefix("file://")
        target = (cache or Path.home() / ".cache" / "s2v_ray" / "models") / digest(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                copy = Path(download_artifacts(artifact_uri=source, dst_path=folder))
                with contextlib.suppress(OSError):  # another process was faster
                    copy.rename(target)
    except MlflowException as e:
        raise storage.StoreError(f"MLflow has no model {address}: {storage.scrub(str(e))}") from e
    return str(target)
