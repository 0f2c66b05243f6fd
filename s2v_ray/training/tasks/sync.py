"""Sync networks, trained on real clips alone: the expert that the GAN leans on, and the judge that it never sees.

Both learn from pairs in step and pairs shifted within the same clip. A network that cannot tell them apart is refused:
a GAN led by a sync network at chance learns nothing, and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.clip import Clip, to_unit
from s2v_ray.config import Recipe
from s2v_ray.losses.sync import sync_accuracy, sync_contrast
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.sync import WINDOW_SLACK, SyncNetwork, SyncRole, save_sync
from s2v_ray.training.schedules import warmup_cosine

MAX_CLIPS = 2000  # as many as are held in memory; more add little to a network this small


def train_sync(corpus: str, recipe: Recipe, role: SyncRole, progress: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains a sync network on the train split and publishes it in the corpus. The judge has another width and seed.

    Returns:
        accuracy on the val split (chance 0.5), steps, and the judge's or expert's place.

    Raises:
        ArtifactError: it stayed at chance; the message says what to look at.
    """
    config = recipe.gan.sync
    steps = config.steps if role == "expert" else recipe.teach.sync_steps
    seed = recipe.seed + (0 if role == "expert" else 1000)
    width = recipe.gan.discriminators.width + (0 if role == "expert" else 8)
    frames_needed = config.window + WINDOW_SLACK - 1
    train = [c for c in shards.read_clips(corpus, "train", MAX_CLIPS) if len(c.frames) >= frames_needed]
    held_out = [c for c in shards.read_clips(corpus, "val", MAX_CLIPS) if len(c.frames) >= frames_needed]
    if not train or not held_out:
        raise storage.ArtifactError(
            f"sync needs clips of at least {frames_needed} frames in train and val; {corpus} has {len(train)} and {len(held_out)}"
        )
    random_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = SyncNetwork(width, config.window, recipe.media.size)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, steps, config.lr)
        speech, frames = _draw(train, max(2, config.batch // WINDOW_SLACK), frames_needed, rng)
        loss = sync_contrast(network.embed_speech(speech), network.embed_frames(frames), network.temperature)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, steps // 4) == 0:
            progress(f"sync {role} {step + 1}/{steps}  loss {loss.item():.3f} (chance {np.log(WINDOW_SLACK):.2f})")
    torch.random.set_rng_state(random_state)
    accuracy = _accuracy(network, held_out, frames_needed, seed)
    if accuracy < config.min_accuracy:
        raise storage.ArtifactError(
            f"the sync {role} is at {accuracy:.2f} on held-out clips (chance 0.50, needed {config.min_accuracy:.2f}): "
            "look whether sound and picture belong together, give gan.sync.steps (the judge: teach.sync_steps) more, or more clips"
        )
    uri = save_sync(
        corpus, role, network,
        width=width, window=config.window, size=recipe.media.size, accuracy=accuracy, seed=seed, steps=steps, config_digest=recipe.digest(),
    )  # fmt: skip
    return {"accuracy": accuracy, "steps": steps, "uri": uri}


def _draw(clips: list[Clip], batch: int, frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    speech, shown = [], []
    for i in rng.integers(len(clips), size=batch):
        clip = clips[i]
        start = int(rng.integers(len(clip.frames) - frames + 1))
        shown.append(clip.frames[start : start + frames])
        speech.append(clip.speech[frames_to_samples(start) : frames_to_samples(start + frames)])
    return torch.from_numpy(np.stack(speech)), to_unit(torch.from_numpy(np.stack(shown)))


@torch.no_grad()
def _accuracy(network: SyncNetwork, clips: list[Clip], frames: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(16):
        speech, shown = _draw(clips, 8, frames, rng)
        found.append(sync_accuracy(network.embed_speech(speech), network.embed_frames(shown)).item())
    return float(np.mean(found))
