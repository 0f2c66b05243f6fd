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

Training stops only while the state is copied in memory. A thread writes the copy to a local disk and from there to the
store; training waits for it only if the next checkpoint is due earlier.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from s2v_ray import storage
from s2v_ray.metrics import VALIDATION
from s2v_ray.training.collective import barrier, from_first, gather, worker
from s2v_ray.training.engine import copy_to_cpu
from s2v_ray.training.engine.state import Sharded
from s2v_ray.training.lease import Attempt, LeaseLostError, read_state
from s2v_ray.training.shard_files import PieceFiles, write_pieces

logger = logging.getLogger(__name__)

CHECKPOINT_SCHEMA = 4
STEP, ATTEMPT = "step-", "attempt-"
PIECES_SUFFIX = ".safetensors"
PATIENCE_SECONDS = 300.0
"""How long a failing upload of one checkpoint is retried before training continues without it."""


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


class Saver:
    """Writes the checkpoints of a run concurrently with training. All workers call every method equally often.

    Args:
        attempt: the attempt that writes; its run is the run.
        keep: number of newest checkpoints that are kept.
        keep_best: name in ``metrics.VALIDATION`` by which the best one is also kept; "" for none.
        patience: seconds for which failing uploads are retried.
    """

    def __init__(
        self,
        attempt: Attempt,
        keep: int,
        keep_best: str = "",
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.attempt, self.run = attempt, attempt.run
        self.keep, self.keep_best, self.patience = keep, keep_best, patience
        # A process group of its own, because its thread communicates concurrently with training; gloo, because it sends
        # Python objects.
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._thread: threading.Thread | None = None
        self._lost: LeaseLostError | None = None
        self.waited = 0.0
        """Seconds for which training waited for checkpoints."""

    def save(
        self,
        step: int,
        sharded: Mapping[str, Sharded],
        state: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Take the checkpoint of ``step``; return when it is copied in memory.

        Args:
            step: steps that are done.
            sharded: the task's engines and averages by name.
            state: this worker's tensors and plain values beyond those.
            metrics: figures of the validation at this step, if there was one.
        """
        self.wait()
        began = time.monotonic()
        own = _worker_file(worker()[0])
        files: dict[str, Any] = {f"{name}/{own}{PIECES_SUFFIX}": part.snapshot() for name, part in sharded.items()}
        files[f"{own}.pt"] = {"state": copy_to_cpu(dict(state)), "random": random_state()}
        self._thread = threading.Thread(target=self._write, args=(step, files, dict(metrics or {})), name="checkpoint")
        self._thread.start()
        self.waited += time.monotonic() - began

    def wait(self) -> None:
        """Wait until the last checkpoint is written or its loss is logged.

        Raises:
            LeaseLostError: on worker 0, if another driver or a newer attempt writes to the run.
        """
        if self._thread is not None:
            began = time.monotonic()
            self._thread.join()
            self._thread = None
            self.waited += time.monotonic() - began
        if self._lost is not None:
            raise self._lost

    def _write(self, step: int, files: dict[str, Any], metrics: dict[str, float]) -> None:
        """Write this worker's files, and on worker 0 the manifest when all workers are done. Runs in a thread."""
        uri = _folder(self.run, step, self.attempt.number)
        try:
            self._gather(None)
            done: dict[str, str] | str = self._write_files(uri, files)
        except Exception as e:  # a lost checkpoint must not end a run, whatever a disk or a store raises
            done = _reason(e)
        try:
            everyone = self._gather(done)
            if worker()[0] != 0:
                return
            for reply in everyone:
                if isinstance(reply, str):  # the reason of a worker that failed
                    raise storage.ArtifactError(reply)
            digests = {name: digest for part in everyone for name, digest in part.items()}
            fields = {"step": step, "workers": worker()[1], "metrics": metrics, "sha256": digests}
            self._with_retries(lambda: storage.write_manifest(uri, "checkpoint", CHECKPOINT_SCHEMA, **fields))
        except Exception as e:
            self._warn(step, e)
            _remove_quietly(uri)
            return
        try:
            self._with_retries(lambda: self.attempt.commit(step))
        except LeaseLostError as e:
            self._lost = e
        except Exception as e:  # the files stay: the request may have succeeded although its response was lost
            self._warn(step, e)
        else:
            self._retire_quietly()

    def _warn(self, step: int, error: Exception) -> None:
        message = "the checkpoint of step %d could not be written (%s): training continues, earlier ones are kept"
        logger.warning(message, step, _reason(error))

    def _retire_quietly(self) -> None:
        try:
            self._retire()
        except LeaseLostError as e:
            self._lost = e
        except Exception as e:
            logger.warning("old checkpoints could not be removed (%s)", _reason(e))

    def _write_files(self, uri: str, files: dict[str, Any]) -> dict[str, str]:
        """Write this worker's files; return their SHA-256 by name."""
        digests = {}
        local = storage.local_path(uri)
        with tempfile.TemporaryDirectory(prefix="s2v-checkpoint-") as scratch:
            for name in list(files):
                path = Path(local or scratch) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write = write_pieces if path.suffix == PIECES_SUFFIX else _write_plain
                write(path, files.pop(name))
                with path.open("r+b") as f:
                    os.fsync(f.fileno())
                    digests[name] = hashlib.file_digest(f, "sha256").hexdigest()
                if local is None:
                    self._with_retries(functools.partial(_upload, str(path), storage.join(uri, name)))
                    path.unlink()
        return digests

    def _with_retries(self, attempt: Callable[[], object]) -> None:
        """Repeat what a store refuses for up to ``patience`` seconds."""
        until, pause = time.monotonic() + self.patience, 1.0
        while True:
            try:
                attempt()
                return
            except storage.StoreError:
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 20.0)

    def _gather(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value, group=self._group)
        return found

    def _retire(self) -> None:
        """Remove all but the newest ``keep`` checkpoints and the best, and folders that are not listed.

        A folder of an earlier attempt that is not listed will never be: only the newest attempt can list it.
        """
        listed, metrics = read_state(self.run).checkpoints, {}
        for step, attempt in listed.items():
            try:
                uri = _folder(self.run, step, attempt)
                metrics[step] = storage.read_manifest(uri, "checkpoint", CHECKPOINT_SCHEMA)["metrics"]
            except storage.StoreError:
                raise  # a store that does not answer says nothing about the checkpoint
            except storage.ArtifactError:
                continue
        kept = set(sorted(metrics)[-self.keep :])
        measured = {step: found[self.keep_best] for step, found in metrics.items() if self.keep_best in found}
        if measured:
            sign = 1.0 if VALIDATION[self.keep_best].better == "higher" else -1.0
            kept.add(max(measured, key=lambda step: (sign * measured[step], step)))
        kept |= {step for step in listed if step > max(metrics, default=0)}
        now = self.attempt.retain(kept).checkpoints if kept != set(listed) else listed
        for step, attempt in _folders(self.run):
            if attempt <= self.attempt.number and now.get(step) != attempt:
                _remove_folder(self.run, step, attempt)


def resume(
    run: str, sharded: Mapping[str, Sharded], begin_from: str = ""
) -> tuple[Checkpoint, dict[str, Any]] | None:
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
    own = f"{_worker_file(rank % checkpoint.workers)}.pt"
    mine = [
        f"{name}/{_worker_file(saved)}{PIECES_SUFFIX}"
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
            found.append(open_checkpoint(_folder(run, step, attempt)))
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


def _worker_file(rank: int) -> str:
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
    return _folder(run, step, attempt)


def open_checkpoint(uri: str) -> Checkpoint:
    """Open the checkpoint at ``uri``; its files are checked when they are loaded.

    Raises:
        ArtifactError: it is missing, or its manifest is damaged.
        KeyError: its manifest is incomplete.
    """
    folder = folder_of(uri)
    manifest = storage.read_manifest(folder, "checkpoint", CHECKPOINT_SCHEMA)
    return Checkpoint(folder, manifest["step"], manifest["workers"], manifest["sha256"])


def _folder(run: str, step: int, attempt: int) -> str:
    return storage.join(uri_of(run, step), f"{ATTEMPT}{attempt:04d}")


def _folders(run: str) -> list[tuple[int, int]]:
    """Return step and attempt of all folders of checkpoints, complete or not."""
    found = []
    for step in _numbers(storage.join(run, "checkpoints"), STEP):
        found += [(step, attempt) for attempt in _numbers(uri_of(run, step), ATTEMPT)]
    return found


def _numbers(uri: str, prefix: str) -> list[int]:
    """Return the numbers in the names of the folders in ``uri``."""
    with storage.translate_errors("list", uri):
        fs, path = storage.filesystem(uri)
        fs.invalidate_cache()
        if not fs.exists(path):
            return []
        names = [str(p).rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(path, detail=False)]
    return sorted(int(n.removeprefix(prefix)) for n in names if n.startswith(prefix) and n[len(prefix) :].isdigit())


def _remove_folder(run: str, step: int, attempt: int) -> None:
    storage.remove(_folder(run, step, attempt))
    if local := storage.local_path(uri_of(run, step)):
        with contextlib.suppress(OSError):  # another attempt has a folder there
            Path(local).rmdir()


def _write_plain(path: Path, content: Any) -> None:
    torch.save(content, path)


def _upload(path: str, uri: str) -> None:
    with storage.translate_errors("write", uri):
        fs, target = storage.filesystem(uri)
        fs.put_file(path, target)


def _remove_quietly(uri: str) -> None:
    """Remove the remainder of a checkpoint. A failure is ignored: without its manifest it is not a checkpoint."""
    try:
        local = storage.local_path(uri)
        if local is None:
            storage.remove(uri)
            return
        shutil.rmtree(local, ignore_errors=True)
        Path(local).parent.rmdir()
    except OSError:  # includes StoreError, and a folder of another attempt beside it
        pass


def _reason(e: BaseException) -> str:
    return storage.scrub(str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__)


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
