"""Checkpoints of a run at any URI. A checkpoint is either complete or ignored.

    RUN/lease.json                                  list of the committed checkpoints (``training.lease``)
    RUN/checkpoints/step-00001000/attempt-0002/
      generator/worker-00000.safetensors            pieces of an engine or an average that worker 0 has
      worker-00000.pt                               state of the task and random generators of worker 0
      manifest.json                                 step, workers, validation metrics and SHA-256 of every file; written
                                                    last

Each attempt writes under its own name, and a checkpoint counts when it is listed in ``lease.json``, which only the
attempt that holds the run's lease can change. Folders that are not listed are removed only by a later attempt, or by
the same one.

Each tensor is stored once, in pieces. At a resume each file is read by one worker, and the workers exchange the pieces
(``training.shard_files``), so the bytes that are read do not grow with the workers, whose number may have changed.

The position in the data needs no state: it is a function of the step (``training.data.plan``).
"""

from __future__ import annotations

import hashlib
import logging
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2v_ray import storage
from s2v_ray.training.collective import barrier, from_first, gather, worker
from s2v_ray.training.engine.state import Sharded
from s2v_ray.training.lease import read_state
from s2v_ray.training.shard_files import PieceFiles

logger = logging.getLogger(__name__)

CHECKPOINT_SCHEMA = 4
STEP, ATTEMPT = "step-", "attempt-"
PIECES_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        uri: folder of its files.
        step: steps that were done.
        workers: number of workers that wrote it.
        sha256: SHA-256 of its files by name.
    """

    uri: str
    step: int
    workers: int
    sha256: Mapping[str, str]


def resume(run: str, sharded: Mapping[str, Sharded], begin_from: str = "") -> tuple[Checkpoint, dict[str, Any]] | None:
    """Restore the newest checkpoint that is not damaged. All workers call it.

    Args:
        run: URI of the run folder.
        sharded: the task's engines and averages by name.
        begin_from: checkpoint of another run that is restored if ``run`` has none.

    Returns:
        the checkpoint and the task's ``state``; None if there is no checkpoint.

    Raises:
        ArtifactError: ``begin_from`` is missing or damaged.
    """
    first = worker()[0] == 0
    for found in from_first(_readable(run) if first else None):
        try:
            return found, load(found, sharded)
        except storage.StoreError:
            raise  # otherwise an outage of the store would discard the newest checkpoints
        except (storage.ArtifactError, FileNotFoundError) as e:
            if first:
                _pass_over(found.step, e)
    if not begin_from:
        return None
    found = from_first(open_checkpoint(begin_from) if first else None)
    return found, load(found, sharded)


def load(checkpoint: Checkpoint, sharded: Mapping[str, Sharded]) -> dict[str, Any]:
    """Restore engines, averages and random generators, and return the task's ``state``. All workers call it.

    Worker r reads the files of the saved workers r, r + n, r + 2n, ... of n workers now, and checks them before
    anything is restored. On another number of workers than saved, worker r takes the random generators and the state of
    worker r modulo that number; additional workers seed their random generators anew.

    Raises:
        ArtifactError: on all workers, if a file is damaged.
        FileNotFoundError: on all workers, if a file is missing.
    """
    rank, world = worker()
    own = f"{worker_file(rank % checkpoint.workers)}.pt"
    mine = [
        f"{name}/{worker_file(saved)}{PIECES_SUFFIX}"
        for name in sharded
        for saved in range(rank, checkpoint.workers, world)
    ]
    with tempfile.TemporaryDirectory(prefix="s2v-checkpoint-") as scratch:
        error: Exception | None = None
        try:
            paths = {name: _fetch(checkpoint, name, Path(scratch)) for name in (own, *mine)}
        except (storage.ArtifactError, OSError) as e:
            error = e
        for other in gather(error):
            if other is not None:
                raise other
        for name, part in sharded.items():
            part.load(PieceFiles(paths[file] for file in mine if file.startswith(f"{name}/")))
        restored = torch.load(paths[own], map_location="cpu", weights_only=True)
        barrier()
    set_random_state(restored["random"])
    if rank >= checkpoint.workers:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(int(torch.randint(2**31, (1,))) + rank)
    state: dict[str, Any] = restored["state"]
    return state


def latest(run: str) -> Checkpoint | None:
    """Return the newest checkpoint whose manifest is readable, or None. Its files are not read."""
    return next(iter(_readable(run)), None)


def _readable(run: str) -> list[Checkpoint]:
    """Return the checkpoints whose manifest is readable, newest first; a warning names the others."""
    found = []
    for step, attempt in sorted(read_state(run).checkpoints.items(), reverse=True):
        try:
            found.append(open_checkpoint(folder_of_attempt(run, step, attempt)))
        except storage.StoreError:
            raise  # says nothing about the checkpoint
        except (storage.ArtifactError, KeyError) as e:
            _pass_over(step, e)
    return found


def _pass_over(step: int, error: Exception) -> None:
    logger.warning("checkpoint of step %d passed over: %s", step, error)


def _fetch(checkpoint: Checkpoint, name: str, scratch: Path) -> Path:
    """Return a local path of a file of a checkpoint, whose SHA-256 is checked."""
    uri = storage.join(checkpoint.uri, name)
    local = storage.local_path(uri)
    path = Path(local) if local else scratch / name
    if local is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with storage.translate_errors("read", uri):
            fs, source = storage.filesystem(uri)
            fs.get_file(source, str(path))
    with path.open("rb") as f:
        if hashlib.file_digest(f, "sha256").hexdigest() != checkpoint.sha256.get(name):
            raise storage.ArtifactError(f"{uri} is damaged: its SHA-256 is not the manifest's")
    return path


def worker_file(rank: int) -> str:
    """Return the name of a worker's files, without a suffix."""
    return f"worker-{rank:05d}"


def uri_of(run: str, step: int) -> str:
    """Return the URI by which the checkpoint of ``step`` is named, whichever attempt wrote it."""
    return storage.join(run, "checkpoints", f"{STEP}{step:08d}")


def folder_of(uri: str) -> str:
    """Return the folder of the files of a checkpoint that is named by ``uri_of``; other URIs are returned unchanged.

    Raises:
        ArtifactError: the run has no such checkpoint.
    """
    folder, _, name = uri.rstrip("/").rpartition("/")
    run, _, place = folder.rpartition("/")
    if place != "checkpoints" or not name.removeprefix(STEP).isdigit():
        return uri
    step = int(name.removeprefix(STEP))
    attempt = read_state(run).checkpoints.get(step)
    if attempt is None:
        raise storage.ArtifactError(f"there is no checkpoint at {uri}: {run} has no complete one of step {step}")
    return folder_of_attempt(run, step, attempt)


def open_checkpoint(uri: str) -> Checkpoint:
    """Open the checkpoint at ``uri``; its files are checked when they are loaded.

    Raises:
        ArtifactError: it is missing, or its manifest is damaged.
        KeyError: its manifest is incomplete.
    """
    folder = folder_of(uri)
    manifest = storage.read_manifest(folder, "checkpoint", CHECKPOINT_SCHEMA)
    return Checkpoint(folder, manifest["step"], manifest["workers"], manifest["sha256"])


def folder_of_attempt(run: str, step: int, attempt: int) -> str:
    """Return the folder of the files that an attempt writes for the checkpoint of ``step``."""
    return storage.join(uri_of(run, step), f"{ATTEMPT}{attempt:04d}")


def random_state() -> dict[str, Any]:
    """Return the state of the random generators of Python, numpy and torch."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
