"""Time of a training step, and the rates at which each resource can deliver clips."""

from __future__ import annotations

import math

from s2v_ray.cluster.planning.inputs import PlanInputs
from s2v_ray.cluster.planning.memory import FP32, uses_plain_torch
from s2v_ray.training.engine.deepspeed_api import BUCKET_ELEMENTS


def ring_seconds(size: float, workers: int, bandwidth: float, hop: float) -> float:
    """Computes the time of a ring all-reduce (Patarasuk and Yuan 2009, doi 10.1016/j.jpdc.2008.09.002).

    ``2 (n-1)/n size/bandwidth + 2 (n-1) hop``. ZeRO's reduce-scatter and all-gather move as much at stages 1 and 2,
    and half as much again at stage 3 (Rajbhandari et al., section 7).

    Args:
        size: bytes.
        workers: n.
        bandwidth: bytes/s.
        hop: latency, seconds.
    """
    return 2 * (workers - 1) / workers * size / bandwidth + 2 * (workers - 1) * hop


def step_seconds(inputs: PlanInputs, workers: int) -> tuple[float, float]:
    """Computes the seconds of a step.

    Returns:
        seconds of computing; and seconds of averaging gradients (and gathering weights) over the workers.
    """
    measured, assumed = inputs.measured, inputs.assumed
    batch = inputs.worker_batch * workers
    full = math.inf if measured.gpu else measured.full_at or measured.workers
    speed = measured.clips_per_second * min(workers, full) / min(measured.workers, full)
    bandwidth = assumed.node_bandwidth
    if inputs.nodes(workers) > 1:
        bandwidth = min(bandwidth, inputs.price.network)
    reduce = 0.0
    for engine in inputs.engines.values():
        size = engine.trained * FP32 * (1.5 if engine.stage == 3 else 1.0)
        buckets = max(1, math.ceil(engine.trained / BUCKET_ELEMENTS))
        reduce += ring_seconds(size, workers, bandwidth, assumed.hop_seconds * buckets)
    here, there = (
        not all(uses_plain_torch(e, n) for e in inputs.engines.values()) for n in (workers, measured.workers)
    )
    deepspeed = (here - there) * assumed.engine_seconds * workers / min(workers, full)
    return batch / speed + deepspeed, reduce


def resource_rates(inputs: PlanInputs, workers: int) -> dict[str, float]:
    """Computes the clips per second that each resource can deliver, by its name."""
    compute, reduce = step_seconds(inputs, workers)
    nodes, assumed = inputs.nodes(workers), inputs.assumed
    processor = "GPU" if inputs.measured.gpu else "CPU"
    rates = {
        processor: inputs.worker_batch * workers / (compute + reduce),
        "network": nodes * inputs.price.network / inputs.corpus.clip_bytes,
        "S3 requests": assumed.gets_per_prefix * assumed.prefixes / assumed.requests_per_clip,
    }
    if inputs.measured.decode_clips_per_cpu_second is not None and inputs.measured.gpu:
        spare = nodes * inputs.group.cpus - workers * inputs.recipe.parallel.cpus_per_worker
        rates["decoding"] = max(0.0, spare) * inputs.measured.decode_clips_per_cpu_second
    if reduce > compute:
        rates["all-reduce"] = rates.pop(processor)
    return rates
