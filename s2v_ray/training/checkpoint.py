"""Checkpoints of a run, at any URI, that are whole or not there.

    RUN/checkpoints/step-00001000/<engine>/...      each engine's state, every worker its own part
    RUN/checkpoints/step-00001000/worker-00000.pt   the task's own state and the random generators, every worker its own
    RUN/checkpoints/step-00001000/manifest.json     step, workers and the SHA-256 of every file; written last

The position in the data needs no state: it is a function of the step (``training.stream``).
"""

from __future__ import annotations

import hashlib
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from s2v_ray import storage
from s2v_ray.training.collective import barrier, gather, worker
from s2v_ray.training.engine import Engine

CHECKPOINT_SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    uri: str
    step: int
    workers: int


def save(run: str, step: int, engines: Mapping[str, Engine], state: Mapping[str, Any], keep: int) -> None:
    """Writes the checkpoint of ``step`` and removes all but the last ``keep``. All workers call it.

    Args:
        state: this worker's tensors and plain values beyond the engines'.
    """
    rank, world = worker()
    uri = _uri(run, step)
    if rank == 0:
        storage.remove(uri)  # what is left of a save that was cut off
    barrier()
    with tempfile.TemporaryDirectory() as temporary:
        remote = "://" in uri
        folder = temporary if remote else uri
        for name in ["", *engines]:
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        for name, engine in engines.items():
            engine.save(folder, name)
        torch.save({"state": dict(state), "random": random_state()}, os.path.join(folder, f"worker-{rank:05d}.pt"))
        barrier()
        written = _relative_files(folder) if remote or rank == 0 else []  # a local folder is everybody's
        if remote:
            fs, path = storage.filesystem(uri)
            for name in written:
                fs.put_file(os.path.join(folder, name), f"{path}/{name}")
        digests = {name: _file_digest(os.path.join(folder, name)) for name in written}
    for part in gather(digests):
        digests |= part
    if rank == 0:
        storage.write_manifest(uri, "checkpoint", CHECKPOINT_SCHEMA, step=step, workers=world, sha256=digests)
        for old in _steps(run)[:-keep]:
            storage.remove(_uri(run, old))
    barrier()


def load(checkpoint: Checkpoint, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """Restores the engines and the random generators, and gives back ``state``. All workers call it.

    Raises:
        ArtifactError: the checkpoint was made by another number of workers.
    """
    rank, world = worker()
    if checkpoint.workers != world:
        raise storage.ArtifactError(f"{checkpoint.uri} was made by {checkpoint.workers} workers, not by {world}: set parallel.workers={checkpoint.workers}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoint.uri
        if "://" in folder:
            fs, path = storage.filesystem(checkpoint.uri)
            fs.get(path.rstrip("/") + "/", temporary + "/", recursive=True)
            folder = temporary
        for name, engine in engines.items():
            engine.load(folder, name)
        own = torch.load(os.path.join(folder, f"worker-{rank:05d}.pt"), map_location="cpu", weights_only=True)
        barrier()
    set_random_state(own["random"])
    state: dict[str, Any] = own["state"]
    return state


def latest(run: str, tell: Callable[[str], None] = print) -> Checkpoint | None:
    """The newest whole checkpoint, or None. Torn and damaged ones are passed over, and ``tell`` hears of each."""
    for step in reversed(_steps(run)):
        uri = _uri(run, step)
        try:
            return open_checkpoint(uri)
        except storage.StoreError:
            raise  # else an hour without S3 would throw the newest checkpoints away
        except (storage.ArtifactError, FileNotFoundError, KeyError) as e:
            tell(f"checkpoint of step {step} passed over: {e}")
    return None


def open_checkpoint(uri: str) -> Checkpoint:
    """The checkpoint at ``uri``, checked.

    Raises:
        ArtifactError, FileNotFoundError, KeyError: it is missing, torn or damaged.
    """
    manifest = storage.read_manifest(uri, "checkpoint", CHECKPOINT_SCHEMA)
    _check_digests(uri, manifest["sha256"])
    return Checkpoint(uri, manifest["step"], manifest["workers"])


def _uri(run: str, step: int) -> str:
    return storage.join(run, "checkpoints", f"step-{step:08d}")


def _steps(run: str) -> list[int]:
    fs, path = storage.filesystem(storage.join(run, "checkpoints"))
    fs.invalidate_cache()
    if not fs.exists(path):
        return []
    names = [str(p).rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(path, detail=False)]
    return sorted(int(n.removeprefix("step-")) for n in names if n.startswith("step-") and n.removeprefix("step-").isdigit())


def _check_digests(uri: str, digests: Mapping[str, str]) -> None:
    fs, path = storage.filesystem(uri)
    for name, expected in digests.items():
        with fs.open(f"{path}/{name}", "rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != expected:
                raise storage.ArtifactError(f"{storage.join(uri, name)} is damaged: its SHA-256 is not the manifest's")


def _file_digest(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _relative_files(folder: str) -> list[str]:
    return sorted(os.path.relpath(os.path.join(root, f), folder) for root, _, files in os.walk(folder) for f in files)


def random_state() -> dict[str, Any]:
    """State of the random generators of Python, numpy and torch."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores what ``random_state`` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
