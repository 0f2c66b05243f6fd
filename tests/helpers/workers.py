"""Runs a function on several connected gloo workers, for tests; DeepSpeed needs real processes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

PRELOADED = [
    "tests.helpers.tasks",
    "tests.helpers.toy_gan",
    "tests.helpers.plain_engine",
    "torch._dynamo",  # with the first step of an optimizer
    "deepspeed",
]
"""What the workers import, which takes seconds. They are forks of a process that has done so."""


def on_workers(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """``function(rank, world, *args)`` on each worker; what each returned, by rank. ``function`` must be importable."""
    _preload()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_worker, (world, folder, function, args), nprocs=world, start_method="forkserver")
        return [torch.load(f"{folder}/{rank}.pt", weights_only=False) for rank in range(world)]


def _preload() -> None:
    """The fork server of this process gets the modules, also if it was started for other ones, as by the puppets."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]  # nothing public stops it
    if server._preload_modules != PRELOADED:
        server._stop()
    forkserver.set_forkserver_preload(PRELOADED)


def _worker(rank: int, world: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    result = function(rank, world, *args)
    torch.save(result, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Without the interpreter's finalisation: a thread of gloo that still holds a tensor then would take the lock of an
    # interpreter that no longer runs, which aborts the process (https://github.com/pytorch/pytorch/pull/179291).
    os._exit(0)
