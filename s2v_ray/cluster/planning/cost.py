"""Hours and cost of a run, of one pass over a large corpus, and the comparison with measured runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from s2v_ray.cluster.planning.failures import daly_interval, overhead, simulate
from s2v_ray.cluster.planning.inputs import Measurement, PlanInputs
from s2v_ray.cluster.planning.memory import checkpoint_bytes, memory_per_rank
from s2v_ray.cluster.planning.speed import resource_rates, step_seconds


@dataclass(frozen=True)
class Estimate:
    """A run with a number of workers; a row of the report.

    Attributes:
        workers, nodes: number of workers and of nodes.
        clips_per_second: of the run.
        bottleneck: resource with the smallest rate.
        limits: clips per second of every resource.
        step_seconds: duration of a step.
        reduce_share: share of the step for averaging gradients.
        rank_bytes: memory of a worker on its device.
        checkpoint_bytes: size of a checkpoint.
        save_seconds: time of writing it.
        interval: best seconds of work between checkpoints; None if no nodes are lost.
        overhead: wall time divided by time of work.
        hours: wall time.
        cost: dollars.
    """

    workers: int
    nodes: int
    clips_per_second: float
    bottleneck: str
    limits: dict[str, float]
    step_seconds: float
    reduce_share: float
    rank_bytes: float
    checkpoint_bytes: float
    save_seconds: float
    interval: float | None
    overhead: float
    hours: float
    cost: float


@dataclass(frozen=True)
class Projection:
    """One pass over a corpus of ``hours_of_video`` hours.

    Attributes:
        hours_of_video: duration of the corpus.
        clips, corpus_bytes, shards: its size.
        index_requests, index_seconds: S3 requests of all workers when training starts, and their time.
        plan_bytes_per_worker: memory of a worker's plan of an epoch.
        requests_per_second: S3 requests of the run.
        simulated_hours, simulated_losses: wall time and lost nodes of one simulated run.
        row: the estimate.
    """

    hours_of_video: float
    clips: float
    corpus_bytes: float
    shards: int
    index_requests: float
    index_seconds: float
    plan_bytes_per_worker: float
    requests_per_second: float
    simulated_hours: float
    simulated_losses: int
    row: Estimate


@dataclass(frozen=True)
class Comparison:
    """Predicted and measured speed of a run.

    Attributes:
        run: its origin.
        workers: number of workers.
        predicted, measured: clips per second.
        error: predicted / measured - 1.
    """

    run: str
    workers: int
    predicted: float
    measured: float
    error: float


def _mtbf(inputs: PlanInputs, nodes: int) -> float:
    """Returns the mean time between failures of the cluster, seconds."""
    return 3600 / (inputs.assumed.losses_per_node_hour * nodes)


def estimate(inputs: PlanInputs, workers: int, clips: float) -> Estimate:
    """Estimates a run of ``workers`` workers over ``clips`` clips; a clip counts as often as it is used."""
    rates = resource_rates(inputs, workers)
    bottleneck = min(rates, key=lambda name: rates[name])
    rate, nodes = rates[bottleneck], inputs.nodes(workers)
    compute, reduce = step_seconds(inputs, workers)
    sizes = [checkpoint_bytes(e, workers) for e in inputs.engines.values()]
    save = sum(largest for _, largest in sizes) / inputs.assumed.upload_bandwidth
    interval: float | None = None
    factor = 1.0
    if inputs.group.spot and inputs.assumed.losses_per_node_hour > 0:
        mtbf = _mtbf(inputs, nodes)
        interval = daly_interval(save, mtbf)
        factor = overhead(interval, save, inputs.assumed.restart_seconds, mtbf)
    hours = clips / rate * factor / 3600 if rate > 0 else math.inf
    memory = sum(sum(memory_per_rank(e, workers).values()) for e in inputs.engines.values())
    requests = clips * inputs.assumed.requests_per_clip
    return Estimate(
        workers=workers,
        nodes=nodes,
        clips_per_second=rate,
        bottleneck=bottleneck,
        limits=rates,
        step_seconds=compute + reduce,
        reduce_share=reduce / (compute + reduce),
        rank_bytes=inputs.measured.peak_bytes or memory,
        checkpoint_bytes=sum(total for total, _ in sizes),
        save_seconds=save,
        interval=interval,
        overhead=factor,
        hours=hours,
        cost=hours * (nodes * inputs.price.hourly + inputs.head_hourly) + requests * inputs.get_price,
    )


def project(inputs: PlanInputs, workers: int, hours_of_video: float) -> Projection:
    """Projects one pass over a corpus of ``hours_of_video`` hours, and simulates it once."""
    assumed, corpus = inputs.assumed, inputs.corpus
    clips = hours_of_video * 3600 / corpus.clip_seconds
    row = estimate(inputs, workers, clips)
    shards = math.ceil(clips / inputs.recipe.ingest.clips_per_shard)
    work = clips / row.clips_per_second
    simulated, losses = work, 0
    if row.interval is not None:
        simulated, losses = simulate(
            work, row.interval, row.save_seconds, assumed.restart_seconds, _mtbf(inputs, row.nodes)
        )
    index_requests = shards * assumed.index_requests * workers
    return Projection(
        hours_of_video=hours_of_video,
        clips=clips,
        corpus_bytes=clips * corpus.clip_bytes,
        shards=shards,
        index_requests=index_requests,
        index_seconds=index_requests / (assumed.gets_per_prefix * assumed.prefixes),
        plan_bytes_per_worker=clips * assumed.row_bytes,
        requests_per_second=row.clips_per_second * assumed.requests_per_clip,
        simulated_hours=simulated / 3600,
        simulated_losses=losses,
        row=row,
    )


def compare(inputs: PlanInputs, runs: Sequence[Measurement]) -> list[Comparison]:
    """Compares the predicted speed with that of other runs."""
    found = []
    for run in runs:
        compute, reduce = step_seconds(inputs, run.workers)
        predicted = inputs.worker_batch * run.workers / (compute + reduce)
        error = predicted / run.clips_per_second - 1
        found.append(Comparison(run.origin, run.workers, predicted, run.clips_per_second, error))
    return found
