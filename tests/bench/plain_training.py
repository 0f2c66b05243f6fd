"""What our training is compared with: the GAN's step in a plain training script. No Ray, no S3.

    torchrun --standalone --nproc-per-node=1 -m tests.bench.plain_training HOST PORT NAME CLIPS CORPUS STUDENT RECIPE
    python -m tests.bench.plain_training HOST PORT NAME CLIPS CORPUS STUDENT RECIPE

Under torchrun: DeepSpeed, and a torch DataLoader with one worker. Else a bare loop, as a tutorial would write it: plain
torch, Adam (fused) and clipping, on batches that lie in memory. CLIPS is a folder of clips as
`bench_stream.write_folders` writes them, CORPUS and STUDENT what the task loads its networks from.
"""

from __future__ import annotations

import functools
import itertools
import os
import random
import sys
import wave
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from s2v_ray.clip import ClipBatch
from s2v_ray.config import Recipe
from s2v_ray.training.data.decode import EncodedClip, Window, WindowSpec, collate, cut_window
from s2v_ray.training.engine import EngineConfig, OptimizerConfig, ParamGroup, make_engine
from s2v_ray.training.tasks import gan
from s2v_ray.training.tasks.context import TaskContext
from tests.bench.turns import take_turns
from tests.helpers.plain_engine import PlainEngine

KEPT_BATCHES = 8


class Clips(Dataset[Window]):
    """A random window of each clip of a folder."""

    def __init__(self, folder: str, window: WindowSpec) -> None:
        frames = {path: len(list(path.glob("*.jpg"))) for path in sorted(Path(folder).iterdir())}
        self.window = window
        self.clips = [(path, n) for path, n in frames.items() if n >= window.frames]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, i: int) -> Window:
        path, n = self.clips[i]
        with wave.open(str(path / "speech.wav")) as f:
            speech = f.readframes(f.getnframes())
        with np.load(path / "codes.npz") as codes:
            outputs = dict(codes)
        draw = int(torch.randint(2**31, ()))
        clip = EncodedClip(path.name, n, lambda k: (path / f"{k:04d}.jpg").read_bytes(), speech, outputs)
        return cut_window(clip, self.window, draw)


class BareEngine(PlainEngine):
    """One optimizer on one device."""

    def step(self) -> None:
        if self.grad_clip:
            torch.nn.utils.clip_grad_norm_(
                [p for g in self.optimizer.param_groups for p in g["params"]], self.grad_clip
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_bare_engine(
    module: nn.Module, param_groups: Iterable[ParamGroup], optimizer: OptimizerConfig, config: EngineConfig, **_: Any
) -> BareEngine:
    """Same signature as ``make_engine``; without ZeRO and offloading."""
    assert optimizer.weight_decay == 0.0, "the GAN's players have none"
    groups = [dict(g, params=list(g["params"])) for g in param_groups]
    adam = torch.optim.Adam(groups, lr=optimizer.lr, betas=optimizer.betas, fused=True)
    return BareEngine(module, adam, config.grad_clip, config.bf16)


def endless(loader: DataLoader[Any]) -> Iterator[ClipBatch]:
    while True:
        yield from loader


def main() -> None:
    host, port, name, clips, corpus, student, given = sys.argv[1:]
    recipe = Recipe.model_validate_json(given)
    bare = "LOCAL_RANK" not in os.environ
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if recipe.parallel.gpu else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(recipe.parallel.threads or os.cpu_count() or 1)
    if not bare:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(recipe.seed)
    config = replace(EngineConfig.from_recipe(recipe.parallel, recipe.gan.batch, 1, device), plain_torch=False)
    engine = functools.partial(make_bare_engine if bare else make_engine, config=config)
    task = gan.make_task(TaskContext(recipe, corpus, engine, device, student=student))
    data = Clips(clips, WindowSpec(corpus, recipe.gan.frames, recipe.gan.speech_frames, recipe.seed))
    loader: DataLoader[Any] = DataLoader(
        data,
        recipe.gan.batch,
        shuffle=True,
        num_workers=0 if bare else 1,
        collate_fn=collate,
        drop_last=True,
        persistent_workers=not bare,
    )
    batches = itertools.cycle(list(itertools.islice(endless(loader), KEPT_BATCHES))) if bare else endless(loader)
    for step, batch in enumerate(take_turns((host, int(port)), {name: batches})):
        task.step(batch.to(device), step)
    if not bare:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
