"""Takes and motion of training clips, for the priors of a bundle."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards
from s2v_ray.clip import to_unit
from s2v_ray.config import Recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.take import KnownTake
from s2v_ray.training.data.plan import Row, planned_clips, read_index, row_group_jobs

TAKE_FRAMES = 4
"""Frames of a clip in which its take is found, evenly spread."""


def fill_priors(model: Speech2Video, corpus: str, recipe: Recipe, device: torch.device) -> None:
    """Fill the priors of takes and of motion of a model from training clips from all over the corpus."""
    config = recipe.gan.generator
    index = read_index(corpus, "train", recipe.gan.frames)
    wanted = max(config.take_clips, config.motion_clips)
    planned = planned_clips(index, seed=recipe.seed, batch=wanted, steps=1)
    chosen = list(dict.fromkeys(clip._replace(epoch=0) for clip in planned))  # a small corpus is repeated in one step
    takes: dict[Row, KnownTake] = {}
    motion: dict[Row, Tensor] = {}
    for job in row_group_jobs(chosen):
        rows = shards.read_rows(job.uri, job.group)
        for row in job.rows:
            place, clip = Row(job.uri, job.group, row), shards.decode_clip(rows[row])
            spread = np.linspace(0, len(clip.frames) - 1, TAKE_FRAMES).round().astype(int)
            pictures = to_unit(torch.from_numpy(clip.frames[spread])).to(device)
            takes[place] = model.known_take(pictures, torch.from_numpy(clip.speech).to(device))
            motion[place] = model.motion_of(to_unit(torch.from_numpy(clip.frames[: config.motion_frames])).to(device))
    model.take_prior.fill([takes[clip.row] for clip in chosen])
    model.motion_prior.fill([motion[clip.row].cpu() for clip in chosen])
