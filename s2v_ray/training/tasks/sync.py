"""The task of a sync network: trained on real pairs of mouth and speech, in step and shifted within the same clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2v_ray import storage
from s2v_ray.clip import Clip, to_unit
from s2v_ray.config import Recipe
from s2v_ray.losses.sync import sync_accuracy, sync_contrast
from s2v_ray.media.timing import frames_to_samples
from s2v_ray.models.sync import WINDOW_SLACK, SyncRole, make_sync, sync_window
from s2v_ray.training.engine import EngineFactory, OptimizerConfig, check_finite
from s2v_ray.training.loggers import Sample
from s2v_ray.training.schedules import warmup_cosine

JUDGE_SEED = 1000
"""Added to the seed for the judge."""
HELD_OUT_BATCHES, HELD_OUT_CLIPS = 16, 8
"""Batches, and clips in each, of the held-out accuracy."""


@dataclass(frozen=True)
class SyncSpec:
    """A sync network of a corpus: its role and what depends on it.

    Attributes:
        role: "expert" (used by the GAN's loss and its validation) or "judge" (evaluation only).
        steps: optimizer steps.
        seed: seed of its random draws.
        width: channels of the first layer.
        window: frames per window.
        frames: frames of a training pair.
    """

    role: SyncRole
    steps: int
    seed: int
    width: int
    window: int
    frames: int

    @classmethod
    def of(cls, role: SyncRole, recipe: Recipe) -> SyncSpec:
        """Make the spec of a role from a recipe."""
        judge, window = role == "judge", sync_window(role, recipe.gan.sync.window)
        return cls(
            role,
            recipe.teach.sync_steps if judge else recipe.gan.sync.steps,
            recipe.seed + (JUDGE_SEED if judge else 0),
            recipe.gan.discriminators.width,
            window,
            window + WINDOW_SLACK - 1,
        )


@dataclass
class SyncBatch:
    """Pairs of a step.

    Attributes:
        speech: ``[B, T * 640]``.
        frames: ``[B, T, 3, S, S]`` in [-1, 1].
        ids: clip ids.
    """

    speech: Tensor
    frames: Tensor
    ids: list[str] = field(default_factory=list)

    def to(self, device: torch.device | str) -> SyncBatch:
        """Copy the batch to ``device``."""
        return SyncBatch(self.speech.to(device), self.frames.to(device), self.ids)


class SyncTask:
    """Trains a sync network.

    The network is initialised from torch's global generator, which the caller seeds before the task is made.

    Args:
        spec: which network.
        train: training clips, each at least ``spec.frames`` long.
        held_out: validation clips, likewise.
        recipe: the recipe.
        make_engine: makes the engine.

    Attributes:
        accuracy: held-out accuracy (chance 0.5), after validation.
    """

    alarms = ()
    diagnostics: frozenset[str] = frozenset()
    note = ""

    def __init__(
        self,
        spec: SyncSpec,
        train: Sequence[Clip],
        held_out: Sequence[Clip],
        recipe: Recipe,
        make_engine: EngineFactory,
    ) -> None:
        self.spec, self.train, self.held_out, self.config = spec, train, held_out, recipe.gan.sync
        self.network = make_sync(spec.role, spec.width, spec.window, recipe.media.size)
        optimizer = OptimizerConfig(self.config.lr, fused=False)
        self.engine = make_engine(self.network, [{"params": list(self.network.parameters())}], optimizer)
        self.sharded = {"sync": self.engine}
        self.accuracy = float("nan")

    @property
    def batch(self) -> int:
        """Clips in a step: each clip gives ``WINDOW_SLACK`` pairs."""
        return max(2, self.config.batch // WINDOW_SLACK)

    def batches(self, start: int) -> Iterator[SyncBatch]:
        """Yield the batches from step ``start`` on. The draws of earlier steps are repeated without reading pixels."""
        rng = np.random.default_rng(self.spec.seed)
        for step in range(self.spec.steps):
            windows = draw_windows(self.train, self.batch, self.spec.frames, rng)
            if step >= start:
                yield cut_windows(self.train, windows, self.spec.frames)

    def step(self, batch: SyncBatch, step: int) -> dict[str, Tensor | float]:
        """Update the network once."""
        self.engine.set_lr(0, warmup_cosine(step, self.spec.steps, self.config.lr))
        net = self.network
        loss = sync_contrast(net.embed_speech(batch.speech), net.embed_frames(batch.frames), net.temperature)
        check_finite(f"sync {self.spec.role}", {"loss": loss}, self.engine)
        self.engine.backward(loss)
        self.engine.step()
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate(self, batches: Iterable[SyncBatch]) -> dict[str, float]:  # noqa: ARG002  # draws its own pairs
        """Measure the accuracy on held-out clips.

        Raises:
            ArtifactError: it is below ``gan.sync.min_accuracy``.
        """
        net, rng, found = self.network, np.random.default_rng(self.spec.seed), []
        for _ in range(HELD_OUT_BATCHES):
            windows = draw_windows(self.held_out, HELD_OUT_CLIPS, self.spec.frames, rng)
            pairs = cut_windows(self.held_out, windows, self.spec.frames)
            found.append(sync_accuracy(net.embed_speech(pairs.speech), net.embed_frames(pairs.frames)).item())
        self.accuracy = float(np.mean(found))
        if self.accuracy < self.config.min_accuracy:
            raise storage.ArtifactError(
                f"the sync {self.spec.role} is at {self.accuracy:.2f} on held-out clips (chance 0.50, needed "
                f"{self.config.min_accuracy:.2f}): check whether sound and picture belong together, increase "
                "gan.sync.steps "
                "(judge: teach.sync_steps), or ingest more clips"
            )
        return {"accuracy": self.accuracy}

    def samples(self, batch: SyncBatch) -> list[Sample]:  # noqa: ARG002  # generates no frames
        """Return no samples."""
        return []

    def state(self) -> dict[str, Any]:
        """Return nothing: the engine has all state."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore nothing."""

    def export(self, run: str, metrics: dict[str, float]) -> None:
        """Write nothing: the caller publishes the network in the corpus."""


def draw_windows(clips: Sequence[Clip], batch: int, frames: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw clips and first frames of windows of ``frames`` frames."""
    return [
        (int(i), int(rng.integers(len(clips[i].frames) - frames + 1))) for i in rng.integers(len(clips), size=batch)
    ]


def cut_windows(clips: Sequence[Clip], windows: Sequence[tuple[int, int]], frames: int) -> SyncBatch:
    """Cut windows out of clips."""
    shown = [clips[i].frames[start : start + frames] for i, start in windows]
    speech = [clips[i].speech[frames_to_samples(start) : frames_to_samples(start + frames)] for i, start in windows]
    ids = [clips[i].id for i, _ in windows]
    return SyncBatch(torch.from_numpy(np.stack(speech)), to_unit(torch.from_numpy(np.stack(shown))), ids)
