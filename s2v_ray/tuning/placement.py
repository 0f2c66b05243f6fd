"""How many trials run at a time on given nodes: pure arithmetic, tested without a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s2v_ray import storage
from s2v_ray.config import Recipe
from s2v_ray.training.resources import worker_resources
from s2v_ray.tuning.parameters import SpaceError

TRIAL_MEMORY = 2**28
"""Bytes reserved for the process of a trial, which only waits. It reserves no CPU, which workers need whole."""


@dataclass(frozen=True)
class Slots:
    """Concurrent trials.

    Attributes:
        count: largest number of concurrent trials.
        share: "CPU" and "GPU" that each may use.
    """

    count: int
    share: dict[str, float]


def trial_slots(nodes: Sequence[Mapping[str, float]], recipe: Recipe, wanted: int | None = None) -> Slots:
    """Return how many trials can run without one waiting for what another holds.

    A trial reserves its workers, all or none, and needs room for one task that decodes their clips. The reservations of
    all trials are packed onto the nodes to check that they fit.

    Args:
        nodes: resources of each node.
        recipe: recipe of the trials.
        wanted: number of concurrent trials, which share CPUs if necessary; None: as many as get all the CPUs they
            request.

    Raises:
        SpaceError: not a single trial fits, or fewer than wanted.
    """
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU", "memory")}
    parallel = recipe.parallel
    most = int(total["CPU"] // (parallel.workers * parallel.cpus_per_worker + 1))
    if parallel.gpu:
        most = min(most, int(total["GPU"] // parallel.workers))
    reason = f"the nodes have {total['CPU']:g} CPUs and {total['GPU']:g} GPUs"
    for count in [wanted] if wanted else range(max(1, most), 0, -1):
        share = {"CPU": total["CPU"] / count, "GPU": float(total["GPU"] // count)}
        try:
            resources = worker_resources(recipe, share)
        except storage.ArtifactError as e:
            reason = str(e)
            continue
        workers = [resources.per_worker] * (parallel.workers * count)
        decoding = [{"CPU": resources.task_cpus}] * count
        if fits([*workers, *decoding, *([{"memory": float(TRIAL_MEMORY)}] * count)], nodes):
            return Slots(count, share)
    if wanted:
        raise SpaceError(f"{wanted} trials at once do not fit: {reason}; lower max_concurrent or parallel.workers")
    raise SpaceError(f"one trial does not fit: {reason}; lower parallel.workers")


def fits(reservations: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether all reservations fit the nodes, by first fit of the largest."""
    free = [dict(node) for node in nodes]
    for one in sorted(reservations, key=lambda p: (-p.get("GPU", 0.0), -p.get("CPU", 0.0))):
        room = next((n for n in free if all(n.get(k, 0.0) >= v - 1e-6 for k, v in one.items())), None)
        if room is None:
            return False
        for name, amount in one.items():
            room[name] -= amount
    return True
