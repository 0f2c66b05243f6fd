"""Schedules: pure functions of the step."""

from __future__ import annotations

import math

from s2v_ray.config import ScheduleConfig


def weight_at(schedule: ScheduleConfig, step: int) -> float:
    """Weight of a discriminator's term in the generator's loss at ``step``: 0 before its start, then a linear ramp."""
    if step < schedule.start:
        return 0.0
    if schedule.ramp == 0:
        return schedule.weight
    return schedule.weight * min(1.0, (step - schedule.start + 1) / schedule.ramp)


def is_updated(schedule: ScheduleConfig, step: int) -> bool:
    """Whether a discriminator learns at ``step``."""
    return (
        schedule.weight > 0
        and schedule.lr > 0
        and step >= schedule.start
        and (step - schedule.start) % schedule.interval == 0
    )


def warmup_cosine(step: int, steps: int, peak: float, warmup: int = 50, floor: float = 0.02) -> float:
    """Learning rate: linear warm-up, then a cosine down to ``floor * peak`` at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
