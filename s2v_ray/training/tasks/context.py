"""What a task is made from on one worker."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from s2v_ray.config import Recipe
from s2v_ray.training.engine import EngineFactory


@dataclass(frozen=True)
class TaskContext:
    """Inputs of ``make_task``.

    Attributes:
        recipe: the run's recipe.
        corpus: URI of the corpus.
        make_engine: makes this worker's engines.
        device: this worker's device.
        rank: this worker's rank.
        student: URI of the student's bundle, for the GAN.
        reference: whether the reference baseline is trained.
    """

    recipe: Recipe
    corpus: str
    make_engine: EngineFactory
    device: torch.device
    rank: int = 0
    student: str | None = None
    reference: bool = False
