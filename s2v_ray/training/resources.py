"""What the workers of a run reserve on a cluster: pure arithmetic, tested without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from s2v_ray import storage
from s2v_ray.config import Recipe


@dataclass(frozen=True)
class WorkerResources:
    """Reservations of a run.

    Attributes:
        num_workers: number of workers, or smallest and largest number.
        per_worker: resources of each worker, "CPU" and possibly "GPU".
        task_cpus: CPUs of one task that decodes clips for the workers.
    """

    num_workers: int | tuple[int, int]
    per_worker: dict[str, float]
    task_cpus: float


def worker_resources(recipe: Recipe, cluster: Mapping[str, float]) -> WorkerResources:
    """Divide a cluster's resources, "CPU" and "GPU", between the workers and the decoding of their clips.

    Workers without a GPU compute on all CPUs anyway (threads); their reservations leave room for decoding, because
    training would otherwise wait for data forever.

    Raises:
        ArtifactError: the cluster has too little; Ray alone would wait for more without an end.
    """
    parallel, cpus, gpus = recipe.parallel, cluster.get("CPU", 0.0), cluster.get("GPU", 0.0)
    least = parallel.min_workers or parallel.workers
    if parallel.gpu and gpus < least:
        name = "min_workers" if parallel.min_workers else "workers"
        raise storage.ArtifactError(
            f"parallel.{name}={least} with parallel.gpu needs as many GPUs, the cluster has {gpus:g} for training"
        )
    task_cpus = min(1.0, cpus / 2)
    each = min(parallel.cpus_per_worker, (cpus - task_cpus) / parallel.workers)
    each = round(each, 2) if each < 1 else float(int(each))
    if each <= 0:
        raise storage.ArtifactError(
            f"the cluster has {cpus:g} CPUs for training, too few for {parallel.workers} workers and the decoding of "
            "their clips"
        )
    per_worker = {"CPU": each, "GPU": 1.0} if parallel.gpu else {"CPU": each}
    return WorkerResources(
        (least, parallel.workers) if parallel.min_workers else parallel.workers, per_worker, task_cpus
    )
