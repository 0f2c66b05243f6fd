"""Schedules: pure functions of the step."""

from __future__ import annotations

import math

from s2v_ray.config import ScheduleConfig


def ramp_at(schedule: ScheduleConfig, step: int) -> float:
    """Return the share of its weights that a discriminator has: 0 before its start, then a linear ramp to 1."""
    if step < schedule.start:
        return 0.0
    if schedule.ramp == 0:
        return 1.0
    return min(1.0, (step - schedule.start + 1) / schedule.ramp)


def is_updated(schedule: ScheduleConfig, step: int) -> bool:
    """Whether a discriminator is updated at ``step``: from its head start on, at its interval."""
    first = schedule.start - schedule.head_start
    due = step >= first and (step - first) % schedule.interval == 0
    return schedule.weight > 0 and schedule.lr > 0 and due


def warmup_cosine(step: int, steps: int, peak: float, warmup: int = 50, floor: float = 0.02) -> float:
    """Return a learning rate: linear warm-up, then a cosine down to ``floor * peak`` at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def one_cycle(step: int, steps: int, peak: float) -> tuple[float, float]:
    """Return learning rate and momentum of the one-cycle policy (Smith and Topin 2018), as torch's ``OneCycleLR``.

    The rate rises from ``peak / 25`` over 30% of the steps and falls to ``peak / 25e4``; the momentum (Adam's first
    beta) goes from 0.95 to 0.85 and back. Both follow cosines.
    """
    initial = peak / 25.0
    final = initial / 1e4
    rise_end, fall_end = 0.3 * steps - 1, steps - 1
    if step <= rise_end:
        share = step / rise_end
        return _cosine(initial, peak, share), _cosine(0.95, 0.85, share)
    share = (step - rise_end) / (fall_end - rise_end)
    return _cosine(peak, final, share), _cosine(0.85, 0.95, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)
