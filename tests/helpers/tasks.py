"""The real training tasks with small networks, and batches of random clips for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from s2v_ray.clip import ClipBatch
from s2v_ray.config import Recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.student import Student
from s2v_ray.training.engine import EngineFactory
from s2v_ray.training.tasks.adversaries import Adversaries
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.distill import DistillTask
from s2v_ray.training.tasks.gan import GanTask
from tests.helpers.recipes import tiny_recipe

EMOTIONS = ("neutral", "happy", "sad")
IDENTITY, SIZE, FRAMES, SPEECH, BATCH = 12, 32, 8, 10, 2
ALL_AT_ONCE = {"start": 0, "ramp": 0, "weight": 0.1, "lr": 1e-3}


def task_recipe(stage: int = 0, **parallel: Any) -> Recipe:
    """Small networks on two workers at a ZeRO stage; every discriminator takes part within the first two steps."""
    each = {
        "frame": ALL_AT_ONCE,
        "mouth": ALL_AT_ONCE | {"interval": 2, "features": 0.2},
        "motion": ALL_AT_ONCE | {"features": 0.2},
        "sync": ALL_AT_ONCE,
        "emotion": ALL_AT_ONCE | {"start": 1},
    }
    return tiny_recipe(
        student={"width": 16, "layers": 1, "emotion_dim": 4, "content_dim": 8, "content_dropout": 0.0},
        distill={"steps": 10, "batch": 2 * BATCH, "speech_frames": SPEECH},
        gan={
            "steps": 10,
            "batch": 2 * BATCH,
            "frames": FRAMES,
            "speech_frames": SPEECH,
            "perturb": False,
            "generator": {"channels": [16, 12, 8, 8], "take_dim": 4, "motion_dim": 3, "take_width": 4},
            "latent": {"start": 1, "warmup": 0},
            "discriminators": {"width": 4, **each},
        },
        parallel={"workers": 2, "zero_generator": stage, "zero_discriminators": min(stage, 2), **parallel},
    )


def make_batch(rank: int, step: int) -> ClipBatch:
    """A batch that depends on rank and step; the second clip is one frame shorter than its speech window."""
    rng = torch.Generator().manual_seed(10 * step + rank)
    return ClipBatch(
        frames=torch.randint(0, 256, (BATCH, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8, generator=rng),
        speech=0.1 * torch.randn(BATCH, SPEECH * 640, generator=rng),
        index=torch.arange(FRAMES) + torch.tensor([[0], [2]]),
        consecutive=torch.tensor([True, True]),
        speech_mask=torch.arange(SPEECH).expand(BATCH, -1) < torch.tensor([[SPEECH], [SPEECH - 1]]),
        references=torch.randint(0, 256, (BATCH, 2, SIZE, SIZE, 3), dtype=torch.uint8, generator=rng),
        identity=F.normalize(torch.randn(BATCH, IDENTITY, generator=rng), dim=-1),
        emotion=torch.randn(BATCH, SPEECH, len(EMOTIONS), generator=rng),
    )


def make_context(settings: Recipe, factory: EngineFactory, rank: int) -> TaskContext:
    return TaskContext(settings, "", factory, torch.device("cpu"), rank)


def make_distill_task(settings: Recipe, factory: EngineFactory, rank: int) -> DistillTask:
    return DistillTask(make_context(settings, factory, rank), Student(settings.student, IDENTITY, EMOTIONS), {})


def make_clip_by_clip_task(settings: Recipe, factory: EngineFactory, rank: int) -> DistillTask:
    """Without the terms that compare clips with each other, and without random perturbations."""
    alone = {
        "contrast": 0.0,
        "emotion_in_identity": 0.0,
        "identity_in_emotion": 0.0,
        "perturb": False,
        "spec_mask": 0.0,
    }
    changes = {
        "distill": settings.distill.model_copy(update=alone),
        "student": settings.student.model_copy(update={"dropout": 0.0}),
    }
    return make_distill_task(settings.model_copy(update=changes), factory, rank)


def make_gan_task(settings: Recipe, factory: EngineFactory, rank: int) -> GanTask:
    model, adversaries = Speech2Video(settings, IDENTITY, EMOTIONS), Adversaries(settings, IDENTITY, len(EMOTIONS))
    return GanTask(make_context(settings, factory, rank), model, adversaries, {})


def make_gan_clip_by_clip_task(settings: Recipe, factory: EngineFactory, rank: int) -> GanTask:
    """Without what compares or mixes clips: identities of other clips as negatives, and sampled takes."""
    latent = settings.gan.latent.model_copy(update={"sampled": 0.0})
    settings = settings.model_copy(update={"gan": settings.gan.model_copy(update={"latent": latent})})
    model, adversaries = Speech2Video(settings, IDENTITY, EMOTIONS), Adversaries(settings, IDENTITY, len(EMOTIONS))
    for _, member in adversaries.items():
        member.penalty = lambda *_: None  # type: ignore[method-assign]
    return GanTask(make_context(settings, factory, rank), model, adversaries, {})
