"""Checkpoints of a run, at any URI, that are whole or not there.

    RUN/checkpoints/step-00001000/<engine>/...      each engine's state, every worker its own part
    RUN/checkpoints/step-00001000/worker-00000.pt   the task's own state and the random generators, every worker its own
    RUN/checkpoints/step-00001000/manifest.json     step, workers, validation metrics and the SHA-256 of every file; written last

The position in the data needs no state: it is a function of the step (``training.stream``).

Training stops for as long as it takes to copy the state in memory. A thread writes the copy to a local disk and from there to
the store; it is waited for only where the next checkpoint is due before it has done.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from s2v_ray import storage
from s2v_ray.metrics import VALIDATION
from s2v_ray.training.collective import barrier, worker
from s2v_ray.training.engine.base import Engine, copied

CHECKPOINT_SCHEMA = 2
PATIENCE_SECONDS = 300.0
"""How long a store that refuses is asked again for one checkpoint, before training goes on without it."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    uri: str
    step: int
    workers: int


class Saver:
    """Writes a run's checkpoints beside its training. All workers make one and call it alike.

    Args:
        keep: how many of the newest are kept.
        keep_best: name in ``metrics.VALIDATION`` by which the best one is kept, too; "" for none.
        tell: hears, on worker 0, what could not be written and why.
    """

    def __init__(
        self,
        run: str,
        keep: int,
        keep_best: str = "",
        tell: Callable[[str], None] = print,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.run, self.keep, self.keep_best, self.tell, self.patience = run, keep, keep_best, tell, patience
        # a group of its own, because its thread speaks while training does; by gloo, because it speaks of Python values
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._thread: threading.Thread | None = None
        self.waited = 0.0
        """Seconds in which training stood still for checkpoints."""

    def save(
        self,
        step: int,
        engines: Mapping[str, Engine],
        state: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Takes the checkpoint of ``step``; returns when it lies in memory.

        Args:
            state: this worker's tensors and plain values beyond the engines'.
            metrics: the validation's figures at this step, if there are any.
        """
        self.wait()
        began = time.monotonic()
        files = {
            f"{name}/{file}": content for name, engine in engines.items() for file, content in engine.snapshot().items()
        }
        files[f"worker-{worker()[0]:05d}.pt"] = {"state": copied(dict(state)), "random": random_state()}
        self._thread = threading.Thread(target=self._write, args=(step, files, dict(metrics or {})), name="checkpoint")
        self._thread.start()
        self.waited += time.monotonic() - began

    def wait(self) -> None:
        """Returns when the last checkpoint is written, or has been told of as lost."""
        if self._thread is not None:
            began = time.monotonic()
            self._thread.join()
            self._thread = None
            self.waited += time.monotonic() - began

    def _write(self, step: int, files: dict[str, Any], metrics: dict[str, float]) -> None:
        """The thread: every worker its files, worker 0 the manifest when all have done."""
        uri = _uri(self.run, step)
        try:
            if worker()[0] == 0:
                _remove_quietly(uri)  # a damaged one of this step, or what is left of one that was cut off
            self._gather(None)
            done: dict[str, str] | str = self._write_files(uri, files)
        except Exception as e:  # whatever a disk or a store may raise: a lost checkpoint must not end a run
            done = _reason(e)
        try:
            everyone = self._gather(done)
            if worker()[0] != 0:
                return
            for told in everyone:
                if isinstance(told, str):
                    raise storage.ArtifactError(told)
            digests = {name: digest for part in everyone for name, digest in part.items()}
            fields = {"step": step, "workers": worker()[1], "metrics": metrics, "sha256": digests}
            self._patiently(lambda: storage.write_manifest(uri, "checkpoint", CHECKPOINT_SCHEMA, **fields))
        except Exception as e:
            self.tell(
                f"the checkpoint of step {step} could not be written ({_reason(e)}): training goes on, earlier ones are kept"
            )
            _remove_quietly(uri)
            return
        try:
            self._retire()
        except Exception as e:
            self.tell(f"old checkpoints could not be removed ({_reason(e)})")

    def _write_files(self, uri: str, files: dict[str, Any]) -> dict[str, str]:
        """Writes this worker's files; their SHA-256 by name."""
        digests = {}
        with tempfile.TemporaryDirectory(prefix="s2v-checkpoint-") as scratch:
            local = storage.local_path(uri)
            for name in list(files):
                path = os.path.join(local or scratch, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                torch.save(files.pop(name), path)
                with open(path, "r+b") as f:
                    os.fsync(f.fileno())
                    digests[name] = hashlib.file_digest(f, "sha256").hexdigest()
                if local is None:
                    self._patiently(lambda path=path, name=name: _upload(path, storage.join(uri, name)))  # type: ignore[misc]
                    os.remove(path)
        return digests

    def _patiently(self, attempt: Callable[[], object]) -> None:
        """Repeats what a store refuses, for ``patience`` seconds."""
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
        """Removes all but the newest ``keep`` whole checkpoints and the best one; torn ones that are older than the newest go, too."""
        metrics: dict[int, dict[str, float]] = {}
        for step in _steps(self.run):
            try:
                metrics[step] = storage.read_manifest(_uri(self.run, step), "checkpoint", CHECKPOINT_SCHEMA)["metrics"]
            except storage.StoreError:
                raise  # who does not answer has not said that it is torn
            except storage.ArtifactError:
                continue
        kept = set(sorted(metrics)[-self.keep :])
        measured = {step: found[self.keep_best] for step, found in metrics.items() if self.keep_best in found}
        if measured:
            sign = 1.0 if VALIDATION[self.keep_best].better == "higher" else -1.0
            kept.add(max(measured, key=lambda step: (sign * measured[step], step)))
        for step in _steps(self.run):
            if step not in kept and step < max(metrics):
                storage.remove(_uri(self.run, step))


def load(checkpoint: Checkpoint, engines: Mapping[str, Engine]) -> dict[str, Any]:
    """Restores the engines and the random generators, and gives back ``state``. All workers call it.

    On another number of workers than saved it, a worker takes the state of one that did; those for whom there is none draw on
    from another place of that one's random generators.
    """
    rank, world = worker()
    with tempfile.TemporaryDirectory() as temporary:
        folder = storage.local_path(checkpoint.uri)
        if folder is None:
            with storage.translate_errors("read", checkpoint.uri):
                fs, path = storage.filesystem(checkpoint.uri)
                fs.get(path.rstrip("/") + "/", temporary + "/", recursive=True)
            folder = temporary
        for name, engine in engines.items():
            engine.load(os.path.join(folder, name), reshape=checkpoint.workers != world)
        own = torch.load(
            os.path.join(folder, f"worker-{rank % checkpoint.workers:05d}.pt"), map_location="cpu", weights_only=True
        )
        barrier()
    set_random_state(own["random"])
    if rank >= checkpoint.workers:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(int(torch.randint(2**31, (1,))) + rank)
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
    uri = storage.join(run, "checkpoints")
    with storage.translate_errors("list", uri):
        fs, path = storage.filesystem(uri)
        fs.invalidate_cache()
        if not fs.exists(path):
            return []
        names = [str(p).rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(path, detail=False)]
    return sorted(
        int(n.removeprefix("step-")) for n in names if n.startswith("step-") and n.removeprefix("step-").isdigit()
    )


def _check_digests(uri: str, digests: Mapping[str, str]) -> None:
    fs, path = storage.filesystem(uri)
    for name, expected in digests.items():
        with storage.translate_errors("read", uri), fs.open(f"{path}/{name}", "rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != expected:
                raise storage.ArtifactError(f"{storage.join(uri, name)} is damaged: its SHA-256 is not the manifest's")


def _upload(path: str, uri: str) -> None:
    with storage.translate_errors("write", uri):
        fs, target = storage.filesystem(uri)
        fs.put_file(path, target)


def _remove_quietly(uri: str) -> None:
    """What is left of a checkpoint that could not be written takes room; it is no checkpoint, so nobody needs to know that it stays."""
    try:
        local = storage.local_path(uri)
        shutil.rmtree(local, ignore_errors=True) if local else storage.remove(uri)
    except OSError:
        pass


def _reason(e: BaseException) -> str:
    return storage.scrub(str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__)


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
