"""Writes the checkpoints of a run (``training.checkpoint``) concurrently with training.

Training stops only while the state is copied in memory. A thread writes the copy to a local disk and from there to the
store; training waits for it only if the next checkpoint is due earlier.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from s2v_ray import storage
from s2v_ray.metrics import VALIDATION
from s2v_ray.training.checkpoint import (
    ATTEMPT,
    CHECKPOINT_SCHEMA,
    PIECES_SUFFIX,
    STEP,
    folder_of_attempt,
    random_state,
    uri_of,
    worker_file,
)
from s2v_ray.training.collective import worker
from s2v_ray.training.engine import copy_to_cpu
from s2v_ray.training.engine.state import Sharded
from s2v_ray.training.lease import Attempt, LeaseLostError, read_state
from s2v_ray.training.shard_files import write_pieces

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 300.0
"""How long a failing upload of one checkpoint is retried before training continues without it."""


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
        own = worker_file(worker()[0])
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
        uri = folder_of_attempt(self.run, step, self.attempt.number)
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
                uri = folder_of_attempt(self.run, step, attempt)
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


def _folders(run: str) -> list[tuple[int, int]]:
    """Return step and attempt of all folders of checkpoints, complete or not."""
    found = []
    for step in _numbers(storage.join(run, "checkpoints"), STEP):
        found += [(step, attempt) for attempt in _numbers(uri_of(run, step), ATTEMPT)]
    return found


def _numbers(uri: str, prefix: str) -> list[int]:
    """Return the numbers in the names of the folders in ``uri``."""
    names = storage.list_names(uri)
    return sorted(int(n.removeprefix(prefix)) for n in names if n.startswith(prefix) and n[len(prefix) :].isdigit())


def _remove_folder(run: str, step: int, attempt: int) -> None:
    storage.remove(folder_of_attempt(run, step, attempt))
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
