"""Checkpoints and lost nodes: best interval between checkpoints, and expected overhead."""

from __future__ import annotations

import math
import random

_MAX_EXPONENT = 700.0  # exp() of larger values overflows


def young_interval(save: float, mtbf: float) -> float:
    """Computes the best time of work between checkpoints to first order (Young 1974, doi 10.1145/361147.361115).

    ``sqrt(2 save mtbf)``; all values in seconds.

    Args:
        save: time of writing a checkpoint.
        mtbf: mean time between failures.
    """
    return math.sqrt(2 * save * mtbf)


def daly_interval(save: float, mtbf: float) -> float:
    """Computes the best time of work between checkpoints to higher order.

    Daly 2006, doi 10.1016/j.future.2004.11.016, equation 37; ``mtbf`` if writing a checkpoint takes at least twice
    as long.
    """
    if save >= 2 * mtbf:
        return mtbf
    x = save / (2 * mtbf)
    return young_interval(save, mtbf) * (1 + math.sqrt(x) / 3 + x / 9) - save


def overhead(interval: float, save: float, restart: float, mtbf: float) -> float:
    """Computes the expected wall time divided by the time of work, at least 1 (Daly 2006, equation 20).

    ``mtbf e^(restart/mtbf) (e^((interval+save)/mtbf) - 1) / interval``. Failures are exponentially distributed and
    also occur during checkpoints and restarts. inf if no work would be completed.

    Args:
        interval: work between checkpoints, seconds.
        save: time of writing a checkpoint, seconds.
        restart: time of a restart, seconds.
        mtbf: mean time between failures, seconds.
    """
    if (interval + save) / mtbf > _MAX_EXPONENT or restart / mtbf > _MAX_EXPONENT:
        return math.inf
    return mtbf * math.exp(restart / mtbf) * math.expm1((interval + save) / mtbf) / interval


def simulate(
    work: float, interval: float, save: float, restart: float, mtbf: float, seed: int = 0
) -> tuple[float, int]:
    """Simulates one run event by event; ``overhead`` is its expectation.

    Args:
        work: seconds of work of the run.
        interval, save, restart, mtbf: as in ``overhead``.
        seed: of the failures.

    Returns:
        wall seconds, and number of failures.
    """
    rng = random.Random(seed)
    clock, done, losses, next_loss = 0.0, 0.0, 0, rng.expovariate(1 / mtbf)
    while done < work:
        segment = min(interval, work - done) + save
        if clock + segment <= next_loss:
            clock, done = clock + segment, done + segment - save
            continue
        while True:  # failures can also occur during a restart
            clock, losses = next_loss, losses + 1
            next_loss = clock + rng.expovariate(1 / mtbf)
            if clock + restart <= next_loss:
                clock += restart
                break
    return clock, losses
