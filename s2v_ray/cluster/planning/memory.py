"""Memory of a worker and size of a checkpoint, from the numbers of parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from s2v_ray.config import Recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.engine.deepspeed_api import BUCKET_ELEMENTS
from s2v_ray.training.tasks.adversaries import Adversaries

FP32 = 4
"""Bytes of a weight, a gradient and a moment: the engines store fp32 and compute in bf16 (``training.engine``)."""
BUCKET_BYTES = 2 * BUCKET_ELEMENTS * FP32
"""Bytes of DeepSpeed's buckets for reducing and gathering, per engine."""
ZeroStage = Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class EngineParameters:
    """Numbers of parameters of one engine, and how they are stored.

    Attributes:
        trained: parameters with gradients and moments.
        frozen: parameters without.
        stage: of ZeRO.
        averaged: whether there is a moving average of the trained parameters, of which each rank stores its part.
        states_on_cpu: whether the optimizer's states are offloaded.
        weights_on_cpu: whether the weights are offloaded.
    """

    trained: int
    frozen: int
    stage: ZeroStage
    averaged: bool = False
    states_on_cpu: bool = False
    weights_on_cpu: bool = False


def count_parameters(recipe: Recipe) -> dict[str, EngineParameters]:
    """Counts the parameters of the GAN's engines, on the real modules, which are built without memory (meta device).

    The dimension of identity codes and the number of emotions are the recipe's; a teacher from a file may have others.
    """
    with torch.device("meta"):
        model = Speech2Video(recipe, recipe.teach.embedding, tuple(recipe.puppets.emotions))
        adversaries = Adversaries(recipe, recipe.teach.embedding, len(recipe.puppets.emotions))
    frozen = sum(p.numel() for p in model.distilled()) if recipe.gan.distilled else 0
    trained = sum(p.numel() for p in model.parameters()) - frozen
    parallel = recipe.parallel
    engines = {
        "generator": EngineParameters(
            trained,
            frozen,
            parallel.zero_generator,
            averaged=True,
            states_on_cpu=parallel.offload_optimizer,
            weights_on_cpu=parallel.offload_param,
        )
    }
    if discriminators := sum(p.numel() for p in adversaries.parameters()):
        engines["discriminators"] = EngineParameters(
            discriminators, 0, parallel.zero_discriminators, states_on_cpu=parallel.offload_optimizer
        )
    return engines


def uses_plain_torch(engine: EngineParameters, workers: int) -> bool:
    """Returns whether the engine is plain torch instead of DeepSpeed: one worker that offloads nothing."""
    return workers == 1 and not (engine.states_on_cpu or engine.weights_on_cpu)


def memory_per_rank(engine: EngineParameters, workers: int) -> dict[str, float]:
    """Computes the bytes that one rank stores for an engine on its device, without activations.

    ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5) with fp32 throughout: 4 bytes each for a weight, its
    gradient, and Adam's two moments. From stage 1 on DeepSpeed also stores a fp32 copy of the weights, and splits
    it and the moments among the N ranks; stage 2 splits the gradients too, stage 3 the weights. What is offloaded
    is in the CPU's memory and counts as 0.
    """
    p, n, stage = engine.trained * FP32, workers, 0 if uses_plain_torch(engine, workers) else engine.stage
    weights = p + engine.frozen * FP32
    return {
        "weights": 0.0 if engine.weights_on_cpu else weights / n if stage == 3 else weights,
        "gradients": p / n if stage >= 2 else p,
        "optimizer": 0.0 if engine.states_on_cpu else 3 * p / n if stage >= 1 else 2 * p,
        "moving average": p / n if engine.averaged else 0.0,
        "buckets": min(BUCKET_BYTES, 2 * p) if stage >= 1 else 0.0,
    }


def checkpoint_bytes(engine: EngineParameters, workers: int) -> tuple[float, float]:
    """Computes the size of an engine's checkpoint.

    It contains the weights, Adam's two moments and the moving average once, in N parts (``training.checkpoint``).

    Returns:
        bytes of the whole checkpoint, and of one worker's part.
    """
    p = engine.trained * FP32
    whole = p + engine.frozen * FP32 + 2 * p + (p if engine.averaged else 0.0)
    return whole, whole / workers
