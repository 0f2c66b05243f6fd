"""Runs a task on Ray Train: connects, checks the run folder, starts the workers, shows their progress, tells their errors."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import ray
import ray.autoscaler.sdk
import ray.train
import ray.train.torch
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch
from s2v_ray.cluster.runtime import node_selector, nodes_for, start_ray
from s2v_ray.config import ParallelConfig, Recipe, digest
from s2v_ray.models.bundle import BUNDLE_SCHEMA
from s2v_ray.training import collective
from s2v_ray.training import trainer as loop
from s2v_ray.training.channel import HEARD_SECONDS, Messages
from s2v_ray.training.checkpoint import CHECKPOINT_SCHEMA
from s2v_ray.training.data.ray_stream import stream
from s2v_ray.training.engine.base import has_bf16, make_engine
from s2v_ray.training.validation import window_frames

Kind = Literal["distill", "gan"]
RUN_SCHEMA = 1
VALIDATION_CLIPS = 128
SAMPLES = 3
POLL_SECONDS = 0.3
GROW_SECONDS = 5.0
"""Between looks at a cluster that grows."""
MAY_DIFFER = (
    "config_digest",
    "recipe.log.",
    *(
        f"recipe.parallel.{key}"
        for key in (
            "workers",
            "min_workers",
            "max_failures",
            "wait_minutes",
            "cpus_per_worker",
            "threads",
            "gpu",
            "accumulate",
            "checkpoint_activations",
        )
    ),
)
"""What a run may be continued with otherwise than it was begun: how many share the work, and what is told of it."""
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""A step allocates and frees the same large tensors. Kept by the process, in huge pages, they are not faulted in afresh each time:
a GAN step on two CPU cores takes 0.32 s instead of 0.47 s. Other C libraries, and a glibc before 2.35, take no notice."""


class Stopped(ValueError):
    """A run was ended before its last step by whom it reports to."""


def launch(
    kind: Kind,
    recipe: Recipe,
    corpus: str,
    run: str,
    *,
    student: str | None = None,
    reference: bool = False,
    begin_from: str = "",
    cluster: dict[str, float] | None = None,
    progress: Callable[[str], None] = print,
    record: Callable[[dict[str, Any]], bool] | None = None,
) -> dict[str, Any]:
    """Trains to the end of the recipe, or continues a run that was cut off.

    Args:
        kind: "distill" makes a student, "gan" a Speech2Video.
        corpus, run: URIs. The run folder gets manifest, checkpoints, metrics and bundle.
        student: URI of a student's bundle, for the GAN.
        reference: builds the reference baseline.
        begin_from: URI of another run's checkpoint, from which a fresh run begins, at its step: with other weights and schedules, if need be.
        cluster: what the run may use, CPU and GPU; None: all nodes for training, and those that ``parallel.wait_minutes`` bring.
        progress: hears each line.
        record: hears each record of metrics.jsonl, and says whether training goes on. Training waits for the answer.

    Returns:
        ``run``, ``bundle`` (URIs), ``steps``, and ``metrics``: the last training record and the validation's.

    Raises:
        ArtifactError: corpus, student or run folder cannot be used, or the cluster has too little.
        TrainingDiverged: a loss is not finite.
        Stopped: ``record`` said so. The checkpoints stay, and a later call goes on from them.
        TrainingFailedError: anything else that a worker died of, with its traceback.
    """
    corpus, run = storage.absolute(corpus), storage.absolute(run)
    student = None if student is None else storage.absolute(student)
    claim_run(run, kind, recipe, corpus, student, reference, begin_from)
    start_ray()
    where = node_selector("train")
    scaling, data_cpus = _machines(recipe, where, progress) if cluster is None else scale(recipe, cluster, where)
    # as Ray Train's controller: elsewhere it would die with a worker's node, and the run with it
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    messages = ray.remote(Messages).options(num_cpus=0, scheduling_strategy=here).remote()
    settings = {
        "kind": kind,
        "recipe": recipe.model_dump(mode="json"),
        "corpus": corpus,
        "run": run,
        "student": student,
        "reference": reference,
    }
    if begin_from:
        settings["begin_from"] = begin_from
    trainer = ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={**settings, "messages": messages, "data_cpus": data_cpus, "watched": record is not None},
        scaling_config=scaling,
        run_config=_run_config(run, digest(settings), recipe.parallel),
    )
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    stop = threading.Event()
    relay = threading.Thread(target=_relay, args=(messages, progress, record, stop), daemon=True)
    relay.start()
    try:
        trainer.fit()
        if (refusal := ray.get(messages.refusal.remote())) is not None:
            raise refusal
        metrics = ray.get(messages.result.remote())
    except ray.train.v2.api.exceptions.TrainingFailedError as e:
        raise ray.get(messages.refusal.remote()) or _user_error(e) or e from None
    finally:
        stop.set()
        relay.join()
        ray.kill(messages)
    return {"run": run, "bundle": storage.join(run, "bundle"), "steps": metrics["step"], "metrics": metrics}


def _machines(
    recipe: Recipe, where: dict[str, str] | None, progress: Callable[[str], None]
) -> tuple[ray.train.ScalingConfig, float]:
    """``scale`` on the nodes with these labels; where they are too few yet, the autoscaler is asked for more and given ``parallel.wait_minutes``."""
    parallel, end, asked = recipe.parallel, time.monotonic() + 60 * recipe.parallel.wait_minutes, False
    one = {"CPU": parallel.cpus_per_worker} | ({"GPU": 1.0} if parallel.gpu else {})
    try:
        while True:
            nodes = [n["Resources"] for n in nodes_for("train")]
            try:
                return scale(recipe, {name: sum(n.get(name, 0.0) for n in nodes) for name in ("CPU", "GPU")}, where)
            except storage.ArtifactError as e:
                if time.monotonic() >= end:
                    raise
                if not asked:
                    progress(f"{e}: waiting up to {parallel.wait_minutes:g} minutes for more machines")
                    ray.autoscaler.sdk.request_resources(
                        bundles=[one] * parallel.workers, bundle_label_selectors=[where or {}] * parallel.workers
                    )
                    asked = True
            time.sleep(GROW_SECONDS)
    finally:
        if asked:
            ray.autoscaler.sdk.request_resources(bundles=[])  # from here on Ray Train asks for its own


def scale(
    recipe: Recipe, cluster: dict[str, float], where: dict[str, str] | None = None
) -> tuple[ray.train.ScalingConfig, float]:
    """Resources of the workers, the labels of their nodes, and the CPUs of one task that decodes clips for them.

    Workers without a GPU compute on all CPUs anyway (threads); what they reserve must leave room for decoding, or
    training would wait for data for ever.

    Raises:
        ArtifactError: the cluster has too little; Ray alone would wait for more without an end.
    """
    parallel, cpus = recipe.parallel, cluster.get("CPU", 0.0)
    least = parallel.min_workers or parallel.workers
    if parallel.gpu and cluster.get("GPU", 0.0) < least:
        name = "min_workers" if parallel.min_workers else "workers"
        raise storage.ArtifactError(
            f"parallel.{name}={least} with parallel.gpu needs as many GPUs, the cluster has {cluster.get('GPU', 0.0):g} for training"
        )
    data_cpus = min(1.0, cpus / 2)
    each = min(parallel.cpus_per_worker, (cpus - data_cpus) / parallel.workers)
    each = round(each, 2) if each < 1 else float(int(each))
    if each <= 0:
        raise storage.ArtifactError(
            f"the cluster has {cpus:g} CPUs for training, too few for {parallel.workers} workers and the decoding of their clips"
        )
    resources = {"CPU": each, "GPU": 1.0} if parallel.gpu else {"CPU": each}
    workers = (least, parallel.workers) if parallel.min_workers else parallel.workers
    return ray.train.ScalingConfig(
        num_workers=workers, use_gpu=parallel.gpu, resources_per_worker=resources, label_selector=where
    ), data_cpus


def claim_run(
    run: str, kind: Kind, recipe: Recipe, corpus: str, student: str | None, reference: bool, begin_from: str = ""
) -> dict[str, Any]:
    """Writes the manifest of a fresh run folder, or checks that the one there is of the very same run.

    Raises:
        ArtifactError: no corpus, an unwritable folder, or a folder of another run; the message says what differs.
    """
    parents = {"corpus": digest(shards.read_corpus_manifest(corpus))}
    if student is not None:
        parents["student"] = digest(storage.read_manifest(student, "bundle", BUNDLE_SCHEMA))
    mine = {
        "task": kind,
        "reference": reference,
        "parents": parents,
        "config_digest": recipe.digest(),
        "recipe": recipe.model_dump(mode="json"),
    }
    if begin_from:
        mine["begin_from"] = begin_from
    if not storage.exists(storage.join(run, storage.MANIFEST)):
        if begin_from:
            parents["checkpoint"] = digest(storage.read_manifest(begin_from, "checkpoint", CHECKPOINT_SCHEMA))
        storage.check_writable(run)
        return storage.write_manifest(run, "run", RUN_SCHEMA, **mine)
    there = storage.read_manifest(run, "run", RUN_SCHEMA)
    differences = [
        f"{key} {old!r} there, {new!r} here"
        for key, old, new in _differences(there, mine)
        if not key.startswith(MAY_DIFFER)
    ]
    if differences:
        raise storage.ArtifactError(
            f"{run} holds another run ({'; '.join(differences[:3])}): name another folder, or remove it"
        )
    return there


def _differences(there: Any, mine: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key, value in mine.items():
        other = there.get(key) if isinstance(there, dict) else None
        if isinstance(value, dict):
            yield from _differences(other, value, f"{prefix}{key}.")
        elif other != value:
            yield f"{prefix}{key}", other, value


def _work(settings: dict[str, Any]) -> None:
    """A worker's whole life, which Ray begins anew when a worker has died."""
    messages = settings["messages"]
    if (refusal := ray.get(messages.refusal.remote())) is not None:
        raise refusal
    try:
        _train(settings)
    except storage.StoreError:
        raise  # may have passed when the workers are started again
    except ValueError as e:
        ray.get(messages.refuse.remote(e))  # would end every other attempt as it ended this one
        if ray.train.get_context().get_world_size() > 1 and not isinstance(e, Stopped | loop.TrainingDiverged):
            raise  # the others may wait for this worker; those two end all workers alike


def _train(settings: dict[str, Any]) -> None:
    """Ray gives its processes a low priority (nice 15); this thread, and those that compute and fetch for it, leave it, so that decoding and stores on the
    same machine do not interrupt a step."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    with contextlib.suppress(PermissionError):  # where the machine does not allow it, training is one among Ray's tasks
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    recipe = Recipe.model_validate(settings["recipe"])
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(
            recipe.parallel.threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
        )
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(recipe.seed * 1009 + rank)
    kind, messages = settings["kind"], settings["messages"]

    def say(line: str) -> None:
        ray.get(messages.say.remote(line))

    if rank == 0:
        say(f"{kind}: {world} worker{'s are' if world > 1 else ' is'} up on {device}")
    section, frames, shown, make_task = _task_of(kind, recipe)
    bf16 = recipe.parallel.bf16 == "on" or (recipe.parallel.bf16 == "auto" and has_bf16(device))
    parallel = recipe.parallel
    engine = functools.partial(
        make_engine,
        bf16=bf16,
        grad_clip=parallel.grad_clip,
        micro_batch=section.batch // world // parallel.accumulate,
        world_size=world,
        accumulate=parallel.accumulate,
        offload_optimizer=parallel.offload_optimizer,
    )
    task = make_task(
        recipe,
        settings["corpus"],
        student=settings["student"],
        reference=settings["reference"],
        make_engine=engine,
        device=device,
        rank=rank,
        world=world,
    )
    if rank == 0:
        say(f"{kind}: networks and optimizers are ready")
    windows = functools.partial(stream, settings["corpus"], speech_frames=section.speech_frames)
    result = loop.run(
        task,
        lambda start: windows(
            "train",
            batch=section.batch // world,
            frames=frames,
            seed=recipe.seed,
            steps=section.steps,
            start_step=start,
            rank=rank,
            world=world,
            cpus=settings["data_cpus"],
        ),
        run=settings["run"],
        kind=kind,
        steps=section.steps,
        clips=section.batch,
        log=recipe.log,
        device=device,
        validation=_validation(windows, settings["corpus"], section.batch // world, shown, rank, world),
        progress=say,
        notice=_notice,
        examples=_examples(windows, settings["corpus"], section.speech_frames),
        report=functools.partial(_report, messages) if settings["watched"] else None,
        watched=settings["watched"],
        begin_from=settings.get("begin_from", ""),
    )
    if rank == 0:
        ray.get(messages.finish.remote(result))


def _notice() -> str:
    """The nodes that are about to be taken away, or ""; a barrier of all workers."""
    info = ray.train.get_preemption_info()
    return (
        f"the machines {', '.join(n[:8] for n in info.preempted_node_ids)} are about to be taken away" if info else ""
    )


def _report(messages: Any, record: dict[str, Any]) -> None:
    """From the first worker, to a driver that decides by it. (Not by ``ray.train.report``, which holds one record until Ray looks, every 2 s: training
    would stand still meanwhile.)
    """
    if not collective.from_first(ray.get(messages.hear.remote(record)) if collective.worker()[0] == 0 else None):
        raise Stopped(f"stopped at step {record['step']}")


def _task_of(kind: Kind, recipe: Recipe) -> tuple[Any, int, int, Callable[..., loop.Task]]:
    """Section of the recipe, frames shown in training and in validation, and maker of the task."""
    if kind == "distill":
        from s2v_ray.training.tasks.distill import make_task as make_distill

        return recipe.distill, 1, 1, make_distill
    from s2v_ray.training.tasks.gan import make_task as make_gan

    return recipe.gan, recipe.gan.frames, window_frames(recipe), make_gan


def _validation(
    windows: Callable[..., Iterator[ClipBatch]], corpus: str, batch: int, frames: int, rank: int, world: int
) -> Callable[[], Iterable[ClipBatch]] | None:
    """This worker's share of the validation split, the same windows each time; None where no clip of it is long enough."""
    lengths = np.array(
        [
            row["num_frames"]
            for uri in shards.shard_uris(corpus, "val")
            for row in shards.read_shard(uri, ["num_frames"])
        ]
    )
    clips = int((lengths >= frames).sum())
    if clips == 0:
        return None
    steps = max(1, min(clips, VALIDATION_CLIPS) // (batch * world))  # the same on all: ZeRO-3 computes together
    return lambda: windows(
        "val", batch=batch, frames=frames, seed=0, steps=steps, rank=rank, world=world, executor="local"
    )


def _examples(
    windows: Callable[..., Iterator[ClipBatch]], corpus: str, speech_frames: int
) -> Callable[[], ClipBatch] | None:
    """The clips of the samples, always the same, as long as is heard at once; None where the corpus has no validation split."""
    lengths = [
        row["num_frames"] for uri in shards.shard_uris(corpus, "val") for row in shards.read_shard(uri, ["num_frames"])
    ]
    if not lengths:
        return None
    frames = min(speech_frames, max(lengths))
    return lambda: next(windows("val", batch=SAMPLES, frames=frames, seed=0, steps=1, executor="local"))


def _run_config(run: str, name: str, parallel: ParallelConfig) -> ray.train.RunConfig:
    """Ray Train's own few files go beside ours; its name is explicit, since Ray resumes by name."""
    # Else Ray sets it to 1 for a worker that reserves one CPU: a step then takes a tenth longer, though the worker sets its number of threads itself
    threads = {} if parallel.gpu else {"OMP_NUM_THREADS": str(parallel.threads or os.cpu_count() or 1)}
    return ray.train.RunConfig(
        name=name,
        worker_runtime_env={"env_vars": MALLOC | threads},
        failure_config=ray.train.FailureConfig(max_failures=parallel.max_failures),
        **storage_of(storage.join(run, "ray")),
    )


def storage_of(uri: str) -> dict[str, Any]:
    """``storage_path`` and ``storage_filesystem`` of one of Ray's run configs: our filesystem, with its endpoint and retries, for any URI."""
    if "://" not in uri:
        return {"storage_path": uri}
    import pyarrow.fs

    fs, path = storage.filesystem(uri)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}


def _relay(
    messages: Any,
    progress: Callable[[str], None],
    record: Callable[[dict[str, Any]], bool] | None,
    stop: threading.Event,
) -> None:
    while True:
        last = stop.wait(POLL_SECONDS if record is None else HEARD_SECONDS)
        lines, records = ray.get(messages.take.remote())
        for line in lines:
            progress(line)
        if records:
            assert record is not None, "workers send records only where they are watched"
            ray.get(messages.heard.remote(all([record(one) for one in records])))
        if last:
            return


def _user_error(error: BaseException) -> ValueError | None:
    """The ValueError that a worker died of, from under Ray's wrappings; None where it was something else."""
    pending: list[Any] = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    while pending:
        e = pending.pop(0)
        if isinstance(e, ValueError) and not isinstance(e, ray.exceptions.RayError):
            return e
        if isinstance(e, BaseException):
            pending += [getattr(e, "_base_exc", None), getattr(e, "cause", None), e.__cause__]
    return None
