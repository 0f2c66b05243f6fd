"""Inputs of a plan: measurements, size of the corpus, prices, and assumptions."""

from __future__ import annotations

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from typing import Any

import yaml

from s2v_ray import shards, storage
from s2v_ray.cluster.manifests import Cluster, Group, workers_on
from s2v_ray.cluster.planning.memory import EngineParameters, count_parameters
from s2v_ray.config import Recipe
from s2v_ray.media.timing import FPS

GIB = 2**30


class PlanError(ValueError):
    """A plan that cannot be made; the message says what is missing."""


def _assumption(value: Any, about: str) -> Any:
    return field(default=value, metadata={"about": about})


@dataclass(frozen=True)
class Assumptions:
    """Values that are not measured. Every report lists them; ``metadata["about"]`` of each field describes it."""

    hop_seconds: float = _assumption(25e-6, "latency of one hop of the ring, seconds")
    engine_seconds: float = _assumption(
        0.02, "overhead of DeepSpeed per step, seconds; one worker without offloading uses plain torch"
    )
    node_bandwidth: float = _assumption(10e9, "between GPUs of one node, bytes/s (PCIe 4, no NVLink)")
    requests_per_clip: float = _assumption(0.75, "S3 GETs per clip: footer and row group of 3 files, shared by 8 clips")
    gets_per_prefix: float = _assumption(
        5500.0,
        "GETs/s of one S3 prefix (docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html)",
    )
    prefixes: int = _assumption(1, "prefixes over which S3 distributes the requests for the train split")
    upload_bandwidth: float = _assumption(1e8, "one worker writing its checkpoint to S3, bytes/s (one stream)")
    losses_per_node_hour: float = _assumption(0.01, "spot nodes lost, per node and hour")
    restart_seconds: float = _assumption(300.0, "from a lost node to the next step: new node, image, checkpoint")
    index_requests: float = _assumption(
        3.0, "S3 requests per worker and shard when training starts (training.data.plan)"
    )
    row_bytes: float = _assumption(150.0, "memory of a worker's plan per clip of an epoch (training.data.plan)")

    def listed(self) -> list[str]:
        """Returns one line per assumption, and the simplifications of the model."""
        values = [f"{f.metadata['about']}: {getattr(self, f.name):g}" for f in dataclasses.fields(self)]
        return [
            *values,
            "gradients are averaged after the backward pass, not during it, by ring all-reduce over the network card",
            "the batch of a worker and its time per clip do not depend on the number of workers",
            "a lost node stops the whole run, which resumes from the last checkpoint; notices trigger no checkpoint",
        ]


@dataclass(frozen=True)
class Measurement:
    """Speed of a run.

    Attributes:
        clips_per_second: of all workers together, without the time spent waiting for data.
        workers: number of workers.
        gpu: whether each worker had a GPU. Without, the workers share one machine.
        full_at: without GPUs, the number of workers that uses all CPUs of the machine: its CPUs divided by the CPUs
            that one worker uses for computing and decoding. More workers are not faster. None: the measured number.
        decode_clips_per_cpu_second: clips that one CPU decodes per second; None: decoding is not considered.
        peak_bytes: largest memory of a rank; None: ``memory_per_rank`` is used.
        origin: run or file that was read.
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
    """Size of the train split, without the teachers' outputs.

    Attributes:
        clips: number of clips.
        clip_bytes, clip_seconds: mean size and duration of a clip.
    """

    clips: int
    clip_bytes: float
    clip_seconds: float


@dataclass(frozen=True)
class Price:
    """An instance type.

    Attributes:
        hourly: dollars per hour.
        gpu_bytes: memory of one GPU.
        network: bandwidth of the network card, bytes/s.
    """

    hourly: float
    gpu_bytes: float
    network: float


@dataclass(frozen=True)
class PlanInputs:
    """Everything that a plan is computed from.

    Attributes:
        recipe: config of the run.
        measured: speed of a small run.
        corpus: size of the train split.
        group: nodes that the workers run on.
        price: of one of these nodes.
        head_hourly: price of the head node, dollars per hour.
        get_price: price of an S3 GET, dollars.
        engines: parameters of the engines by name.
        assumed: assumptions.
    """

    recipe: Recipe
    measured: Measurement
    corpus: CorpusSize
    group: Group
    price: Price
    head_hourly: float
    get_price: float
    engines: dict[str, EngineParameters]
    assumed: Assumptions = Assumptions()

    @property
    def workers_per_node(self) -> int:
        """Number of workers on one node."""
        return workers_on(self.group, self.recipe)

    @property
    def worker_batch(self) -> int:
        """Clips per worker and step."""
        return self.recipe.gan.batch // self.recipe.parallel.workers

    def nodes(self, workers: int) -> int:
        """Returns the number of nodes for ``workers`` workers."""
        return -(-workers // self.workers_per_node)


def read_measurement(uri: str) -> Measurement:
    """Reads the speed from a run (its metrics.jsonl), or from a YAML or JSON file with the fields of ``Measurement``.

    Of a run, the median of the records is used, without the first one, which includes the start.

    Raises:
        PlanError: there is neither, or it contains no speed.
    """
    uri = storage.absolute(uri)
    if storage.exists(storage.join(uri, storage.MANIFEST)):
        return _read_run(uri)
    try:
        data = yaml.safe_load(storage.read_bytes(uri))
        return Measurement(**{"origin": uri, **data})
    except (yaml.YAMLError, TypeError, IsADirectoryError) as e:
        fields = ", ".join(f.name for f in dataclasses.fields(Measurement))
        raise PlanError(f"{uri} is neither a run nor a file of measurements ({fields}): {e}") from e


def _read_run(uri: str) -> Measurement:
    parallel = storage.read_json(storage.join(uri, storage.MANIFEST)).get("recipe", {}).get("parallel", {})
    metrics = storage.join(uri, "metrics.jsonl")
    lines = storage.read_bytes(metrics).decode().splitlines() if storage.exists(metrics) else []
    speeds = [
        record["clips_per_second"] / max(1e-9, 1.0 - record.get("data_wait", 0.0))
        for record in map(json.loads, lines)
        if "clips_per_second" in record
    ]
    if not speeds or not parallel:
        raise PlanError(f"{uri} has no metrics.jsonl with clips_per_second yet")
    return Measurement(statistics.median(speeds[1:] or speeds), parallel["workers"], parallel["gpu"], origin=uri)


def read_corpus_size(uri: str) -> CorpusSize:
    """Reads the size of the train split from the manifest and a listing of the shards.

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


def make_inputs(
    recipe: Recipe, measured: Measurement, corpus: CorpusSize, cluster: Cluster, prices: dict[str, Any]
) -> PlanInputs:
    """Combines what was read.

    Args:
        recipe: config of the run.
        measured: speed of a small run.
        corpus: size of the train split.
        cluster: the cluster that will run it.
        prices: content of ``cluster/prices.yaml``.

    Raises:
        PlanError: the cluster has no node for the recipe's workers, or the prices lack one of its instances.
    """
    groups = [g for g in cluster.of_role("train") if workers_on(g, recipe) > 0]
    if not groups:
        raise PlanError(
            f"cluster {cluster.name} has no node labelled train that holds a worker of recipe {recipe.name}"
        )
    group, (head,) = groups[0], [g for g in cluster.groups if g.head]
    hourly = prices["hourly"]
    missing = [g.instance for g in (group, head) if g.instance not in hourly]
    if missing:
        raise PlanError(f"the prices do not name the instances {missing} of cluster {cluster.name}")
    known = hourly[group.instance]
    price = Price(
        known["spot" if group.spot else "on_demand"], known["gpu_memory_gib"] * GIB, known["network_gbit"] * 1e9 / 8
    )
    return PlanInputs(
        recipe,
        measured,
        corpus,
        group,
        price,
        hourly[head.instance]["on_demand"],
        prices["s3"]["get_per_1000"] / 1000,
        count_parameters(recipe),
    )
