"""Takes and motion of training clips, for the priors of a bundle."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from s2v_ray import shards
from s2v_ray.clip import to_unit
from s2v_ray.config import Recipe
from s2v_ray.media.regions import mouth_mask
from s2v_ray.models.generator import ClipCodes
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.take import KnownTake, NoiseSequence
from s2v_ray.split_index import read_index
from s2v_ray.training.data.decode import read_outputs
from s2v_ray.training.data.plan import EpochOrder, Row, planned_clips, row_group_jobs

TAKE_FRAMES = 4
"""Frames of a clip in which its take is found, evenly spread."""
GAIN_CLIPS = 16
"""Clips on which the gain of the motion is measured."""
MAX_GAIN = 2.0


def fill_priors(model: Speech2Video, corpus: str, recipe: Recipe, device: torch.device) -> None:
    """Fill the priors of takes and of motion of a model from training clips from all over the corpus.

    The motion is scaled by one factor, so that generated frames vary as much over time as those of the corpus.
    """
    config = recipe.gan.generator
    order = EpochOrder(read_index(corpus, "train"), recipe.gan.frames, recipe.seed)
    wanted = max(config.take_clips, config.motion_clips)
    planned = planned_clips(order, batch=wanted, steps=1)
    chosen = list(dict.fromkeys(clip._replace(epoch=0) for clip in planned))  # a small corpus is repeated in one step
    takes: dict[Row, KnownTake] = {}
    motion: dict[Row, Tensor] = {}
    variances: list[tuple[float, float, float]] = []
    for job in row_group_jobs(chosen):
        rows = shards.read_rows(job.uri, job.group)
        identities = read_outputs(corpus, "identity", job, [rows[row]["id"] for row in job.rows])
        for row, identity in zip(job.rows, identities, strict=True):
            place, clip = Row(job.uri, job.group, row), shards.decode_clip(rows[row])
            frames = to_unit(torch.from_numpy(clip.frames[: config.motion_frames])).to(device)
            speech = torch.from_numpy(clip.speech).to(device)
            spread = np.linspace(0, len(clip.frames) - 1, TAKE_FRAMES).round().astype(int)
            pictures = to_unit(torch.from_numpy(clip.frames[spread])).to(device)
            takes[place] = model.known_take(pictures, speech, torch.from_numpy(identity).to(device))
            motion[place] = model.motion_of(frames)
            if len(variances) < GAIN_CLIPS:
                variances.append(_variances(model, frames, speech, takes[place], motion[place]))
    gain = matching_gain(*torch.tensor(variances).sum(0).tolist())
    model.take_prior.fill([takes[clip.row] for clip in chosen])
    model.motion_prior.fill([gain * motion[clip.row].cpu() for clip in chosen])


def matching_gain(real: float, without: float, moving: float) -> float:
    """Return the factor on motion codes with which generated frames vary as much as real ones, from 1 to ``MAX_GAIN``.

    Reconstruction losses make the generator move less than the recording whose motion it is given.

    Args:
        real: variance of real frames over time.
        without: variance of frames that are generated without motion, but with speech and noise.
        moving: variance of frames that are generated with the motion of the real ones.
    """
    added = moving - without
    if added <= 1e-3 * real:
        return 1.0  # the motion code has no effect
    return min(MAX_GAIN, math.sqrt(max(1.0, (real - without) / added)))


@torch.no_grad()
def _variances(
    model: Speech2Video, frames: Tensor, speech: Tensor, take: KnownTake, motion: Tensor
) -> tuple[float, float, float]:
    """Return the variances for ``matching_gain``, outside the mouth: the content moves the mouth."""
    codes, t = model.student(speech[None]), len(frames)
    still = frames[:1] if model.reference else None
    clip_codes = ClipCodes(codes.identity, codes.emotion, take.mean[None], still)
    noise = NoiseSequence(frames.shape[-1], torch.Generator().manual_seed(0)).draw(t).to(frames.device)
    generated = [
        model.generator(clip_codes, codes.content[:, :t], scale * motion[None], noise)[0] for scale in (0.0, 1.0)
    ]
    outside = 1.0 - mouth_mask(frames.shape[-1]).to(frames.device)
    real, without, moving = (float((x.mean(1).var(0, unbiased=False) * outside).sum()) for x in (frames, *generated))
    return real, without, moving
