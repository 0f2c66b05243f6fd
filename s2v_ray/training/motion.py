"""The motion of training clips, for the motion prior."""

from __future__ import annotations

import torch
from torch import Tensor

from s2v_ray import shards
from s2v_ray.clip import to_unit
from s2v_ray.config import Recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.data.plan import Row, planned_clips, read_index, row_group_jobs


def motion_codes(model: Speech2Video, corpus: str, recipe: Recipe, device: torch.device) -> list[Tensor]:
    """Encode the motion ``[T, M]`` of training clips from all over the corpus, for the motion prior."""
    wanted = recipe.gan.generator.motion_clips
    index = read_index(corpus, "train", recipe.gan.frames)
    planned = planned_clips(index, seed=recipe.seed, batch=wanted, steps=1)
    chosen = list(dict.fromkeys(clip._replace(epoch=0) for clip in planned))  # a small corpus is repeated in one step
    found: dict[Row, Tensor] = {}
    for job in row_group_jobs(chosen):
        rows = shards.read_rows(job.uri, job.group)
        for row in job.rows:
            frames = shards.decode_clip(rows[row]).frames[: recipe.gan.generator.motion_frames]
            motion = model.motion_of(to_unit(torch.from_numpy(frames)).to(device))
            found[Row(job.uri, job.group, row)] = motion.cpu()
    return [found[clip.row] for clip in chosen]
