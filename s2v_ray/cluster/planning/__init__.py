"""What a training run will need and cost, from what was measured on a small one. Knows no Ray and starts nothing.

A step of n workers takes ``compute + all-reduce``; beside it stand the rates at which clips can be decoded and read. The smallest rate is
the run's, and its owner the bottleneck. Lost nodes and checkpoints stretch the hours. All of it is arithmetic on measured numbers and on
``Assumptions``, which every report lists. Workers keep their batch as they become more (weak scaling): more GPUs mean larger steps and
fewer of them, and the same clips seen. What that does to quality is not predicted.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from s2v_ray import shards, storage
from s2v_ray.cluster.manifests import Cluster, Group, workers_on
from s2v_ray.config import Recipe
from s2v_ray.media.timing import FPS
from s2v_ray.training.engine.deepspeed_api import BUCKET_ELEMENTS

FP32 = 4
"""Bytes of a weight, a gradient, a moment: the engines keep fp32 and compute in bf16 (``training.engine``)."""
BUCKET_BYTES = 2 * BUCKET_ELEMENTS * FP32
"""DeepSpeed's buckets for reducing and gathering, of one engine."""
GIB = 2**30
Stage = Literal[0, 1, 2, 3]


class PlanError(ValueError):
    """A plan that cannot be made; the message says what is missing."""


@dataclass(frozen=True)
class Assumptions:
    """What no measurement here says. Each is printed with its value."""

    hop_seconds: float = field(default=25e-6, metadata={"about": "latency of one hop of the ring, seconds"})
    engine_seconds: float = field(
        default=0.02,
        metadata={"about": "of a step, what DeepSpeed takes beside plain torch, in which one worker trains alone"},
    )
    node_bandwidth: float = field(
        default=10e9, metadata={"about": "between GPUs of one node, bytes/s (PCIe 4, no NVLink)"}
    )
    requests_per_clip: float = field(
        default=0.75, metadata={"about": "S3 GETs for a clip: the end and a row group of 3 files, shared by 8 clips"}
    )
    gets_per_prefix: float = field(
        default=5500.0,
        metadata={
            "about": "GETs/s that S3 gives one prefix (docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html)"
        },
    )
    prefixes: int = field(
        default=1, metadata={"about": "prefixes of the train split that S3 has split its traffic over"}
    )
    upload_bandwidth: float = field(
        default=1e8, metadata={"about": "one worker writing its checkpoint to S3, bytes/s (one stream)"}
    )
    losses_per_node_hour: float = field(default=0.01, metadata={"about": "spot nodes lost, for each node and hour"})
    restart_seconds: float = field(
        default=300.0, metadata={"about": "from a lost node to the next step: new node, image, checkpoint"}
    )
    index_requests: float = field(
        default=3.0,
        metadata={"about": "S3 requests of a worker for each shard when training starts (training.stream.read_index)"},
    )
    row_bytes: float = field(
        default=150.0, metadata={"about": "memory of a worker's plan for each clip of an epoch (training.stream.plan)"}
    )

    def listed(self) -> list[str]:
        own = [f"{f.metadata['about']}: {getattr(self, f.name):g}" for f in dataclasses.fields(self)]
        return [
            *own,
            "gradients are averaged after the backward pass, not beside it; ring all-reduce, its bandwidth the node's network card",
            "a worker's batch stays as it is in the recipe, and a clip costs a worker the same time at any number of workers",
            "a lost node stops the whole run, which goes on from the last checkpoint; notices are not used to save earlier",
        ]


@dataclass(frozen=True)
class Measured:
    """What was measured on a run.

    Attributes:
        clips_per_second: of all workers together, time spent waiting for data taken out.
        workers: how many they were.
        gpu: whether each had a GPU. Without, the workers share one machine.
        full_at: without GPUs, the number of workers that keeps the machine's CPUs busy: its CPUs / those busy for one worker, which are
            its threads and what decodes for it. More of them make it no faster. None: those that were measured did.
        decode_clips_per_cpu_second: clips that one CPU decodes a second; None: decoding is not judged.
        peak_bytes: largest memory of a rank; None: the arithmetic of ``memory_per_rank`` must do.
    """

    clips_per_second: float
    workers: int = 1
    gpu: bool = False
    full_at: float | None = None
    decode_clips_per_cpu_second: float | None = None
    peak_bytes: float | None = None
    origin: str = ""


@dataclass(frozen=True)
class CorpusSize:
    """The train split: clips, bytes and seconds of one clip on average. Bytes without the teachers' outputs."""

    clips: int
    clip_bytes: float
    clip_seconds: float


@dataclass(frozen=True)
class Price:
    """An instance: dollars an hour, bytes of one GPU, bytes/s of its network card."""

    hourly: float
    gpu_bytes: float
    network: float


@dataclass(frozen=True)
class Parameters:
    """Of one engine, in numbers of parameters. Frozen ones have no gradient and no moments."""

    trained: int
    frozen: int
    stage: Stage
    averaged: bool = False  # a moving average of the trained ones is kept, on every rank
    states_on_cpu: bool = False
    weights_on_cpu: bool = False


@dataclass(frozen=True)
class Setup:
    """All that a plan is made of."""

    recipe: Recipe
    measured: Measured
    corpus: CorpusSize
    group: Group
    price: Price
    head_hourly: float
    get_price: float
    engines: dict[str, Parameters]
    assumed: Assumptions = Assumptions()

    @property
    def per_node(self) -> int:
        """Workers on a node."""
        return workers_on(self.group, self.recipe)

    def nodes(self, workers: int) -> int:
        return -(-workers // self.per_node)

    @property
    def worker_batch(self) -> int:
        return self.recipe.gan.batch // self.recipe.parallel.workers


@dataclass(frozen=True)
class Row:
    """A run of ``workers``: what the table shows. ``overhead``: wall time over training time; ``interval``: best seconds between
    checkpoints; None where no node is ever lost."""

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


# ---- reading what was measured


def read_measured(uri: str) -> Measured:
    """Speed from a run folder (its metrics.jsonl), or a YAML or JSON file with the fields of ``Measured``.

    The first record of a run is left out where there are others: it holds the start. The rest enters by its median.

    Raises:
        PlanError: neither is there, or it holds no speed.
    """
    uri = storage.absolute(uri)
    if storage.exists(storage.join(uri, storage.MANIFEST)):
        return _measured_run(uri)
    try:
        data = yaml.safe_load(storage.read_bytes(uri))
        return Measured(**{"origin": uri, **data})
    except (yaml.YAMLError, TypeError, IsADirectoryError) as e:
        raise PlanError(
            f"{uri} is neither a run nor a file of measurements ({', '.join(f.name for f in dataclasses.fields(Measured))}): {e}"
        ) from e


def _measured_run(uri: str) -> Measured:
    parallel = storage.read_json(storage.join(uri, storage.MANIFEST)).get("recipe", {}).get("parallel", {})
    metrics = storage.join(uri, "metrics.jsonl")
    records = (
        [json.loads(line) for line in storage.read_bytes(metrics).decode().splitlines()]
        if storage.exists(metrics)
        else []
    )
    speeds = [
        r["clips_per_second"] / max(1e-9, 1.0 - r.get("data_wait", 0.0)) for r in records if "clips_per_second" in r
    ]
    if not speeds or not parallel:
        raise PlanError(f"{uri} has no metrics.jsonl with clips_per_second yet")
    return Measured(statistics.median(speeds[1:] or speeds), parallel["workers"], parallel["gpu"], origin=uri)


def read_corpus(uri: str) -> CorpusSize:
    """The train split's size, from its manifest and a listing of its shards.

    Raises:
        ArtifactError: there is no corpus.
        PlanError: its train split is empty.
    """
    uri = storage.absolute(uri)
    counts = shards.read_corpus_manifest(uri)["splits"]["train"]
    fs, path = storage.filesystem(storage.join(uri, "train"))
    size = sum(info["size"] for info in fs.find(path, detail=True).values())
    if not counts["clips"]:
        raise PlanError(f"the train split of {uri} is empty")
    return CorpusSize(counts["clips"], size / counts["clips"], counts["frames"] / counts["clips"] / FPS)


def make_setup(
    recipe: Recipe, measured: Measured, corpus: CorpusSize, cluster: Cluster, prices: dict[str, Any]
) -> Setup:
    """Joins what was read.

    Raises:
        PlanError: the cluster has no node for the recipe's workers, or the prices lack one of its instances.
    """
    groups = [g for g in cluster.of_role("train") if workers_on(g, recipe) > 0]
    if not groups:
        raise PlanError(
            f"cluster {cluster.name} has no node labelled train that holds a worker of recipe {recipe.name}"
        )
    group, (head,) = groups[0], [g for g in cluster.groups if g.head]
    missing = [g.instance for g in (group, head) if g.instance not in prices["hourly"]]
    if missing:
        raise PlanError(f"the prices do not name the instances {missing} of cluster {cluster.name}")
    known = prices["hourly"][group.instance]
    price = Price(
        known["spot" if group.spot else "on_demand"], known["gpu_memory_gib"] * GIB, known["network_gbit"] * 1e9 / 8
    )
    get_price = prices["s3"]["get_per_1000"] / 1000
    return Setup(
        recipe,
        measured,
        corpus,
        group,
        price,
        prices["hourly"][head.instance]["on_demand"],
        get_price,
        engines_of(recipe),
    )


# ---- memory


def engines_of(recipe: Recipe) -> dict[str, Parameters]:
    """The parameters of the GAN's two engines, counted on the real modules, built without memory (torch's meta device).

    The dimension of identities and the number of emotions are the recipe's; a teacher that comes as a file may have others.
    """
    import torch

    from s2v_ray.models.generator import Speech2Video
    from s2v_ray.training.tasks.adversaries import Adversaries

    with torch.device("meta"):
        model = Speech2Video(recipe, recipe.teach.embedding, tuple(recipe.puppets.emotions))
        adversaries = Adversaries(recipe, recipe.teach.embedding, len(recipe.puppets.emotions))
    frozen = sum(p.numel() for p in model.distilled()) if recipe.gan.distilled else 0
    trained = sum(p.numel() for p in model.parameters()) - frozen
    parallel = recipe.parallel
    states, weights = parallel.offload_optimizer, parallel.offload_param
    found = {
        "generator": Parameters(
            trained, frozen, parallel.zero_generator, averaged=True, states_on_cpu=states, weights_on_cpu=weights
        )
    }
    if judged := sum(p.numel() for p in adversaries.parameters()):
        found["discriminators"] = Parameters(judged, 0, parallel.zero_discriminators, states_on_cpu=states)
    return found


def is_alone(engine: Parameters, workers: int) -> bool:
    """Whether it does without DeepSpeed (``training.engine.LoneEngine``): one worker that offloads nothing has nothing to split."""
    return workers == 1 and not (engine.states_on_cpu or engine.weights_on_cpu)


def memory_per_rank(engine: Parameters, workers: int) -> dict[str, float]:
    """Bytes that one rank holds for an engine on its device, activations aside.

    ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5) with fp32 throughout: 4 bytes each for a weight, its gradient, and Adam's two
    moments. From stage 1 on DeepSpeed also keeps its own fp32 copy of the weights, and splits it and the moments among the N ranks; stage 2
    splits the gradients too, stage 3 the weights. What is offloaded lies in the CPU's memory and counts as 0.
    """
    p, n, stage = engine.trained * FP32, workers, 0 if is_alone(engine, workers) else engine.stage
    weights = p + engine.frozen * FP32
    return {
        "weights": 0.0 if engine.weights_on_cpu else weights / n if stage == 3 else weights,
        "gradients": p / n if stage >= 2 else p,
        "optimizer": 0.0 if engine.states_on_cpu else 3 * p / n if stage >= 1 else 2 * p,
        "moving average": p if engine.averaged else 0.0,
        "buckets": min(BUCKET_BYTES, 2 * p) if stage >= 1 else 0.0,
    }


def checkpoint_bytes(engine: Parameters, workers: int) -> tuple[float, float]:
    """Bytes of an engine's checkpoint: all of it, and the part that worker 0 writes, the largest.

    The weights once; the optimizer's state in N parts; the moving average by every worker (``training.checkpoint``).
    """
    p = engine.trained * FP32
    stage = 0 if is_alone(engine, workers) else engine.stage
    weights, state = p + engine.frozen * FP32, (3 if stage else 2) * p
    average = p if engine.averaged else 0.0
    parts = workers if stage else 1
    return weights + state + workers * average, weights + state / parts + average


# ---- time


def ring_seconds(size: float, workers: int, bandwidth: float, hop: float) -> float:
    """Ring all-reduce of ``size`` bytes: ``2 (n-1)/n size/bandwidth + 2 (n-1) hop`` (Patarasuk & Yuan 2009, doi 10.1016/j.jpdc.2008.09.002).

    ZeRO's reduce-scatter and all-gather move as much at stages 1 and 2, half as much again at stage 3 (Rajbhandari et al., section 7).
    """
    return 2 * (workers - 1) / workers * size / bandwidth + 2 * (workers - 1) * hop


def young_interval(save: float, mtbf: float) -> float:
    """Best seconds of work between checkpoints, first order: ``sqrt(2 save mtbf)`` (Young 1974, doi 10.1145/361147.361115)."""
    return math.sqrt(2 * save * mtbf)


def daly_interval(save: float, mtbf: float) -> float:
    """The same to a higher order (Daly 2006, doi 10.1016/j.future.2004.11.016, equation 37); ``mtbf`` where saving takes twice as long as that."""
    if save >= 2 * mtbf:
        return mtbf
    x = save / (2 * mtbf)
    return young_interval(save, mtbf) * (1 + math.sqrt(x) / 3 + x / 9) - save


def overhead(interval: float, save: float, restart: float, mtbf: float) -> float:
    """Expected wall time over time of work, at least 1: ``mtbf e^(restart/mtbf) (e^((interval+save)/mtbf) - 1) / interval``.

    Daly 2006, equation 20: losses come at random (exponential), also while saving and restarting. inf where no work would ever be done.
    """
    if (interval + save) / mtbf > 700 or restart / mtbf > 700:
        return math.inf
    return mtbf * math.exp(restart / mtbf) * math.expm1((interval + save) / mtbf) / interval


def simulate(
    work: float, interval: float, save: float, restart: float, mtbf: float, seed: int = 0
) -> tuple[float, int]:
    """Wall seconds of one run, and losses met, drawn event by event: what ``overhead`` gives on average."""
    draw = random.Random(seed)
    clock, done, losses, next_loss = 0.0, 0.0, 0, draw.expovariate(1 / mtbf)
    while done < work:
        segment = min(interval, work - done) + save
        if clock + segment <= next_loss:
            clock, done = clock + segment, done + segment - save
            continue
        while True:  # a restart may be hit, too
            clock, losses = next_loss, losses + 1
            next_loss = clock + draw.expovariate(1 / mtbf)
            if clock + restart <= next_loss:
                clock += restart
                break
    return clock, losses


def step_seconds(setup: Setup, workers: int) -> tuple[float, float]:
    """Seconds of a step: computing, and averaging gradients (and gathering weights) over the workers."""
    measured, assumed = setup.measured, setup.assumed
    batch = setup.worker_batch * workers
    full = math.inf if measured.gpu else measured.full_at or measured.workers
    speed = measured.clips_per_second * min(workers, full) / min(measured.workers, full)
    bandwidth = (
        assumed.node_bandwidth if setup.nodes(workers) == 1 else min(assumed.node_bandwidth, setup.price.network)
    )
    reduce = 0.0
    for engine in setup.engines.values():
        size = engine.trained * FP32 * (1.5 if engine.stage == 3 else 1.0)
        buckets = max(1, math.ceil(engine.trained / BUCKET_ELEMENTS))
        reduce += ring_seconds(size, workers, bandwidth, assumed.hop_seconds * buckets)
    more = [not all(is_alone(e, n) for e in setup.engines.values()) for n in (workers, measured.workers)]
    return batch / speed + (more[0] - more[1]) * assumed.engine_seconds * workers / min(workers, full), reduce


def limits(setup: Setup, workers: int) -> dict[str, float]:
    """Clips/s that each resource can give."""
    compute, reduce = step_seconds(setup, workers)
    nodes, assumed = setup.nodes(workers), setup.assumed
    found = {
        "GPU" if setup.measured.gpu else "CPU": setup.worker_batch * workers / (compute + reduce),
        "network": nodes * setup.price.network / setup.corpus.clip_bytes,
        "S3 requests": assumed.gets_per_prefix * assumed.prefixes / assumed.requests_per_clip,
    }
    if setup.measured.decode_clips_per_cpu_second is not None and setup.measured.gpu:
        spare = nodes * setup.group.cpus - workers * setup.recipe.parallel.cpus_per_worker
        found["decoding"] = max(0.0, spare) * setup.measured.decode_clips_per_cpu_second
    if reduce > compute:
        found["all-reduce"] = found.pop("GPU" if setup.measured.gpu else "CPU")
    return found


def estimate(setup: Setup, workers: int, clips: float) -> Row:
    """A run of ``workers`` that sees ``clips`` clips (one counts as often as it is seen)."""
    rates = limits(setup, workers)
    bottleneck = min(rates, key=lambda name: rates[name])
    rate, nodes = rates[bottleneck], setup.nodes(workers)
    compute, reduce = step_seconds(setup, workers)
    sizes = [checkpoint_bytes(e, workers) for e in setup.engines.values()]
    save = sum(first for _, first in sizes) / setup.assumed.upload_bandwidth
    interval: float | None = None
    factor = 1.0
    if setup.group.spot and setup.assumed.losses_per_node_hour > 0:
        mtbf = 3600 / (setup.assumed.losses_per_node_hour * nodes)
        interval = daly_interval(save, mtbf)
        factor = overhead(interval, save, setup.assumed.restart_seconds, mtbf)
    hours = clips / rate * factor / 3600 if rate > 0 else math.inf
    return Row(
        workers=workers,
        nodes=nodes,
        clips_per_second=rate,
        bottleneck=bottleneck,
        limits=rates,
        step_seconds=compute + reduce,
        reduce_share=reduce / (compute + reduce),
        rank_bytes=setup.measured.peak_bytes
        or sum(sum(memory_per_rank(e, workers).values()) for e in setup.engines.values()),
        checkpoint_bytes=sum(total for total, _ in sizes),
        save_seconds=save,
        interval=interval,
        overhead=factor,
        hours=hours,
        cost=hours * (nodes * setup.price.hourly + setup.head_hourly)
        + clips * setup.assumed.requests_per_clip * setup.get_price,
    )


# ---- the report


def make_plan(setup: Setup, workers: Sequence[int], hours_of_video: float) -> dict[str, Any]:
    """The recipe's run at several numbers of workers; and one pass over ``hours_of_video`` at the largest of them, with one simulated run."""
    recipe = setup.recipe
    rows = [estimate(setup, n, recipe.gan.steps * recipe.gan.batch) for n in workers]
    warnings = []
    if recipe.parallel.gpu != setup.measured.gpu:
        warnings.append(
            f"the recipe has gpu={recipe.parallel.gpu}, the measured run had gpu={setup.measured.gpu}: the speeds below are not the cluster's"
        )
    if setup.measured.decode_clips_per_cpu_second is None:
        warnings.append("decoding was not measured (decode_clips_per_cpu_second), and is not among the bottlenecks")
    if setup.measured.peak_bytes is None:
        warnings.append("memory per rank is that of weights, gradients, optimizer and buckets; activations come on top")
    if setup.price.gpu_bytes and (large := [r.workers for r in rows if r.rank_bytes > setup.price.gpu_bytes]):
        warnings.append(f"a rank does not fit into a GPU of {setup.price.gpu_bytes / GIB:.1f} GiB at {large} workers")
    return {
        "recipe": recipe.name,
        "measured": dataclasses.asdict(setup.measured),
        "corpus": dataclasses.asdict(setup.corpus),
        "engines": {name: dataclasses.asdict(e) for name, e in setup.engines.items()},
        "memory": {name: memory_per_rank(e, recipe.parallel.workers) for name, e in setup.engines.items()},
        "rows": [dataclasses.asdict(r) for r in rows],
        "projection": project(setup, max(workers), hours_of_video),
        "assumptions": setup.assumed.listed(),
        "warnings": warnings,
    }


def project(setup: Setup, workers: int, hours_of_video: float) -> dict[str, Any]:
    """One pass over a corpus of ``hours_of_video`` hours: time, cost, shards, and what starting costs. Seconds, bytes."""
    assumed, corpus = setup.assumed, setup.corpus
    clips = hours_of_video * 3600 / corpus.clip_seconds
    row = estimate(setup, workers, clips)
    found_shards = math.ceil(clips / setup.recipe.ingest.clips_per_shard)
    work = clips / row.clips_per_second
    simulated, losses = work, 0
    if row.interval is not None:
        mtbf = 3600 / (assumed.losses_per_node_hour * row.nodes)
        simulated, losses = simulate(work, row.interval, row.save_seconds, assumed.restart_seconds, mtbf)
    return {
        "hours_of_video": hours_of_video,
        "clips": clips,
        "corpus_bytes": clips * corpus.clip_bytes,
        "shards": found_shards,
        "index_requests": found_shards * assumed.index_requests * workers,
        "index_seconds": found_shards * assumed.index_requests * workers / (assumed.gets_per_prefix * assumed.prefixes),
        "plan_bytes_per_worker": clips * assumed.row_bytes,
        "requests_per_second": row.clips_per_second * assumed.requests_per_clip,
        "simulated_hours": simulated / 3600,
        "simulated_losses": losses,
        "row": dataclasses.asdict(row),
    }


def compare(setup: Setup, runs: Sequence[Measured]) -> list[dict[str, Any]]:
    """The predicted speed beside that of other runs. ``error``: predicted over measured, minus 1."""
    found = []
    for run in runs:
        compute, reduce = step_seconds(setup, run.workers)
        predicted = setup.worker_batch * run.workers / (compute + reduce)
        error = predicted / run.clips_per_second - 1
        found.append(
            {
                "run": run.origin,
                "workers": run.workers,
                "predicted": predicted,
                "measured": run.clips_per_second,
                "error": error,
            }
        )
    return found


def format_plan(plan: dict[str, Any]) -> str:
    """The plan for people."""
    rows = [Row(**r) for r in plan["rows"]]
    table = [
        (
            "workers",
            "nodes",
            "clips/s",
            "bottleneck",
            "all-reduce",
            "GiB/rank",
            "checkpoint",
            "save every",
            "overhead",
            "hours",
            "cost $",
        )
    ]
    for r in rows:
        every = "-" if r.interval is None else f"{r.interval / 60:.0f} min"
        figures = (
            f"{r.clips_per_second:.1f}",
            r.bottleneck,
            f"{r.reduce_share:.0%}",
            f"{r.rank_bytes / GIB:.2f}",
            f"{r.checkpoint_bytes / GIB:.1f} GiB",
        )
        table.append(
            (str(r.workers), str(r.nodes), *figures, every, f"{r.overhead - 1:.1%}", f"{r.hours:.1f}", f"{r.cost:.0f}")
        )
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in table]
    p = plan["projection"]
    far = Row(**p["row"])
    lines += [
        "",
        f"{p['hours_of_video']:,.0f} hours of video, seen once by {far.workers} workers on {far.nodes} nodes:",
        f"  {p['clips']:,.0f} clips, {p['corpus_bytes'] / 1e12:,.1f} TB in {p['shards']:,} shards; {p['requests_per_second']:,.0f} S3 requests/s",
        f"  {far.hours:,.1f} hours, $ {far.cost:,.0f}; bottleneck: {far.bottleneck}",
        f"  one simulated run: {p['simulated_hours']:,.1f} hours, {p['simulated_losses']} lost nodes",
        f"  to start: {p['index_requests']:,.0f} S3 requests, {p['index_seconds'] / 3600:,.1f} hours; {p['plan_bytes_per_worker'] / GIB:,.1f} GiB a worker",
        "",
    ]
    lines += [f"note: {w}" for w in plan["warnings"]] + ["assumed:"] + [f"  {a}" for a in plan["assumptions"]]
    return "\n".join(lines)


def draw_plan(plan: dict[str, Any]) -> str:
    """Clips/s over workers, both logarithmic, beside perfect scaling from the first row: an SVG."""
    rows = [Row(**r) for r in plan["rows"]]
    perfect = [rows[0].clips_per_second * r.workers / rows[0].workers for r in rows]
    speeds = [r.clips_per_second for r in rows]
    x = _scale([r.workers for r in rows], 60, 560)
    y = _scale([s for s in [*speeds, *perfect] if s > 0], 320, 30)

    def line(values: Sequence[float], style: str) -> str:
        points = " ".join(f"{x(r.workers):.1f},{y(v):.1f}" for r, v in zip(rows, values, strict=True) if v > 0)
        return f'<polyline points="{points}" fill="none" {style}/>'

    def text(at: float, height: float, words: str, anchor: str = "start") -> str:
        return f'<text x="{at:.1f}" y="{height:.1f}" text-anchor="{anchor}">{words}</text>'

    labels = [text(x(r.workers), 345, str(r.workers), "middle") for r in rows]
    shown = [r for r in rows if r.clips_per_second > 0]
    named = [
        text(x(r.workers) + 4, y(r.clips_per_second) + 14, f"{r.clips_per_second:.0f} {r.bottleneck}") for r in shown
    ]
    curves = [line(perfect, 'stroke="#999" stroke-dasharray="4"'), line(speeds, 'stroke="#06c" stroke-width="2"')]
    title = text(60, 18, f"clips/s over workers, recipe {plan['recipe']} (dashed: perfect scaling)")
    body = "\n".join(['<rect width="100%" height="100%" fill="white"/>', title, *curves, *labels, *named])
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="660" height="360" font-family="sans-serif" font-size="10">\n{body}\n</svg>\n'


def _scale(values: Sequence[float], low: float, high: float) -> Callable[[float], float]:
    """Logarithms of ``values`` onto [low, high]."""
    first, last = math.log(min(values)), math.log(max(values))
    return lambda v: low + (high - low) * (math.log(v) - first) / ((last - first) or 1.0)
