"""Tasks: what one training step of each network is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from s2v_ray.config import DistillConfig, GanConfig, Recipe
from s2v_ray.training.alarms import DATA_ALARMS, Alarm
from s2v_ray.training.tasks import distill, gan
from s2v_ray.training.tasks.adversaries import ADVERSARIES
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.trainer import Task
from s2v_ray.training.validation import window_frames

Kind = Literal["distill", "gan"]


@dataclass(frozen=True)
class TaskEntry:
    """A task that is launched on a cluster.

    Attributes:
        make: makes the task on a worker.
        section: its section of a recipe.
        frames: target frames of a training window.
        validation_frames: target frames of a validation window.
        window_share: share of training clips whose target frames are consecutive.
        pictures: whether the task uses frames, or speech alone.
    """

    make: Callable[[TaskContext], Task]
    section: Callable[[Recipe], DistillConfig | GanConfig]
    frames: Callable[[Recipe], int]
    validation_frames: Callable[[Recipe], int]
    window_share: Callable[[Recipe], float]
    pictures: bool


def _one_frame(_: Recipe) -> int:
    """The student reads no frames, so their number does not depend on the recipe."""
    return 1


TASKS: dict[Kind, TaskEntry] = {
    "distill": TaskEntry(distill.make_task, lambda r: r.distill, _one_frame, _one_frame, lambda _: 1.0, pictures=False),
    "gan": TaskEntry(
        gan.make_task,
        lambda r: r.gan,
        lambda r: r.gan.frames,
        window_frames,
        lambda r: r.gan.window_share,
        pictures=True,
    ),
}
"""All tasks that ``launch`` runs."""


def known_alarms() -> tuple[Alarm, ...]:
    """Return the alarms of all tasks and registered discriminators."""
    return (*DATA_ALARMS, *(alarm for member in ADVERSARIES.values() for alarm in member.alarms), *distill.ALARMS)
