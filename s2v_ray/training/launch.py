"""Runs a task on Ray Train: the driver (``launch``) and the life of a worker (``_worker``)."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s2v_ray import logs, storage
from s2v_ray.clip import ClipBatch, SpeechBatch
from s2v_ray.cluster.runtime import (
    job_id,
    node_selector,
    nodes_for,
    request_nodes,
    run_config_storage,
    start_ray,
    value_error_of,
)
from s2v_ray.config import ParallelConfig, Recipe, import_plugins
from s2v_ray.split_index import SplitIndex, read_index
from s2v_ray.training import collective, lease
from s2v_ray.training.channel import ACK_SECONDS, RunChannel
from s2v_ray.training.data.ray_stream import StreamConfig, speech_stream, stream
from s2v_ray.training.engine import EngineConfig, make_engine
from s2v_ray.training.resources import WorkerResources, worker_resources
from s2v_ray.training.runs import RunSpec, claim_run
from s2v_ray.training.stalls import REPORT_SECONDS, ActivityReporter
from s2v_ray.training.tasks import TASKS, TaskEntry
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.trainer import DataSources, Hooks, LoopConfig, Trainer, TrainingDivergedError
from s2v_ray.training.window import Record

logger = logging.getLogger(__name__)

Batches = Callable[[], Iterable[SpeechBatch]]

VALIDATION_CLIPS = 128
"""Clips of a validation during training, at most."""
SAMPLE_CLIPS = 3
"""Clips of the sample videos."""
POLL_SECONDS = 0.3
"""Interval in which the driver fetches log records."""
GROW_SECONDS = 5.0
"""Interval in which a growing cluster is inspected."""
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
"""A step allocates and frees the same large tensors. If the process keeps their memory, in huge pages, it is not mapped
anew each time: a GAN step on two CPU cores takes 0.32 s instead of 0.47 s. Other C libraries, and a glibc before 2.35,
ignore this.
"""


class StoppedError(ValueError):
    """The receiver of a run's records ended it before its last step."""


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker gets from the driver.

    Attributes:
        spec: the run.
        token: of the run's lease, which the driver holds.
        channel: handle of the ``RunChannel`` actor.
        task_cpus: CPUs of one decoding task.
        reports: whether training waits for the driver's decision after every record.
        ids: of the driver's log records (``logs.identified``).
    """

    spec: RunSpec
    token: str
    channel: Any
    task_cpus: float
    reports: bool
    ids: dict[str, str]


def launch(
    spec: RunSpec,
    *,
    cluster: dict[str, float] | None = None,
    on_record: Callable[[Record], bool] | None = None,
) -> dict[str, Any]:
    """Train to the end of the recipe, or continue a run that was interrupted.

    Args:
        spec: the run.
        cluster: "CPU" and "GPU" that the run may use; None: all nodes for training, and those that are added within
            ``parallel.wait_minutes``.
        on_record: receives each record of ``metrics.jsonl`` and returns whether training continues. Training waits for
            it.

    Returns:
        ``run``, ``bundle`` (URIs), ``steps``, and ``metrics``: the last training record and the figures of the
        validation.

    Raises:
        ArtifactError: corpus, student or run folder cannot be used, or the cluster has too little.
        LeaseHeldError: another driver trains this run.
        LeaseLostError: another driver has taken over, because this one was stopped for too long.
        TrainingDivergedError: a loss is not finite.
        StoppedError: ``on_record`` returned False. The checkpoints stay, and a later call continues from them.
        TrainingFailedError: a worker failed for any other reason; with its traceback.
    """
    spec = spec.absolute()
    with logs.identified(run=spec.run, job=job_id()):
        claim_run(spec)
        with lease.held(spec.run, job_id()) as token:
            start_ray()
            return _fit(spec, token, cluster, on_record)


def _fit(
    spec: RunSpec, token: str, cluster: dict[str, float] | None, on_record: Callable[[Record], bool] | None
) -> dict[str, Any]:
    """Train with Ray Train, as the holder of the run's lease."""
    selector = node_selector("train")
    resources = (
        worker_resources(spec.recipe, cluster) if cluster is not None else _wait_for_nodes(spec.recipe, selector)
    )
    # On this node, as Ray Train's controller: on another one it would be lost with a worker's node, and the run with
    # it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    timeout = 60 * spec.recipe.parallel.timeout_minutes
    channel = ray.remote(RunChannel).options(num_cpus=0, scheduling_strategy=here).remote(timeout / 2)
    config = WorkerConfig(spec, token, channel, resources.task_cpus, on_record is not None, logs.current_ids())
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"config": config},
        torch_config=ray.train.torch.TorchConfig(timeout_s=math.ceil(timeout)),
        scaling_config=_scaling_config(resources, spec.recipe.parallel, selector),
        run_config=_run_config(spec),
    )
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    stop = threading.Event()
    relay = threading.Thread(target=_relay, args=(channel, on_record, stop), daemon=True)
    relay.start()
    try:
        trainer.fit()
        if (failure := ray.get(channel.failure.remote())) is not None:
            raise failure
        metrics = ray.get(channel.result.remote())
    except ray.train.v2.api.exceptions.TrainingFailedError as e:
        raise ray.get(channel.failure.remote()) or value_error_of(e) or e from None
    finally:
        stop.set()
        relay.join()
        ray.kill(channel)
    return {"run": spec.run, "bundle": storage.join(spec.run, "bundle"), "steps": metrics["step"], "metrics": metrics}


def _wait_for_nodes(recipe: Recipe, selector: dict[str, str] | None) -> WorkerResources:
    """Divide the nodes for training; if there are too few, request more and wait up to ``parallel.wait_minutes``."""
    parallel, requested = recipe.parallel, False
    end = time.monotonic() + 60 * parallel.wait_minutes
    bundle = {"CPU": parallel.cpus_per_worker} | ({"GPU": 1.0} if parallel.gpu else {})
    try:
        while True:
            nodes = [n["Resources"] for n in nodes_for("train")]
            try:
                total = {name: sum(n.get(name, 0.0) for n in nodes) for name in ("CPU", "GPU")}
                return worker_resources(recipe, total)
            except storage.ArtifactError as e:
                if time.monotonic() >= end:
                    raise
                if not requested:
                    logger.info("%s: waiting up to %g minutes for more machines", e, parallel.wait_minutes)
                    request_nodes([bundle] * parallel.workers, selector)
                    requested = True
            time.sleep(GROW_SECONDS)
    finally:
        if requested:
            request_nodes([])  # from here on Ray Train requests its own


def _scaling_config(
    resources: WorkerResources, parallel: ParallelConfig, selector: dict[str, str] | None
) -> ray.train.ScalingConfig:
    return ray.train.ScalingConfig(
        num_workers=resources.num_workers,
        use_gpu=parallel.gpu,
        resources_per_worker=resources.per_worker,
        label_selector=selector,
    )


def _run_config(spec: RunSpec) -> ray.train.RunConfig:
    """Ray Train's own few files go into the run folder. The name is explicit, because Ray resumes by name."""
    parallel = spec.recipe.parallel
    # Ray sets it to 1 for a worker that reserves one CPU; a step then takes a tenth longer, although the worker sets
    # its number of threads itself.
    threads = {} if parallel.gpu else {"OMP_NUM_THREADS": str(parallel.threads or os.cpu_count() or 1)}
    return ray.train.RunConfig(
        name=spec.digest(),
        worker_runtime_env={"env_vars": MALLOC | threads},
        failure_config=ray.train.FailureConfig(max_failures=parallel.max_failures),
        **run_config_storage(storage.join(spec.run, "ray")),
    )


def _relay(channel: Any, on_record: Callable[[Record], bool] | None, stop: threading.Event) -> None:
    """Fetch log records and training records from the channel until ``stop`` is set, in a thread of the driver."""
    looked = time.monotonic()
    while True:
        last = stop.wait(POLL_SECONDS if on_record is None else ACK_SECONDS)
        if time.monotonic() - looked > REPORT_SECONDS:
            looked = time.monotonic()
            if message := ray.get(channel.stalled.remote()):
                logger.warning("%s", message)
        log_records, records = ray.get(channel.drain.remote())
        for values in log_records:
            logs.handle_dict(values)
        if records:
            assert on_record is not None, "workers send records only if the driver receives them"
            decisions = [on_record(one) for one in records]
            ray.get(channel.ack.remote(all(decisions)))
        if last:
            return


# ---- on the worker


class ChannelHandler(logging.Handler):
    """Forwards log records of worker 0 to the driver."""

    def __init__(self, channel: Any) -> None:
        super().__init__()
        self.channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record and wait until it has arrived, so that the order is kept."""
        try:
            ray.get(self.channel.log.remote(logs.record_to_dict(record)))
        except Exception:
            self.handleError(record)


def _worker(loop_config: dict[str, Any]) -> None:
    """The whole life of a worker; Ray starts it anew when a worker has failed."""
    config: WorkerConfig = loop_config["config"]
    channel = config.channel
    if (failure := ray.get(channel.failure.remote())) is not None:
        raise failure
    try:
        with logs.identified(**config.ids):
            _train(config)
    except (storage.StoreError, lease.AttemptEndedError):
        raise  # the former may be over when the workers are started again, the latter concerns these workers only
    except ValueError as e:
        ray.get(channel.fail.remote(e))  # every other attempt would end in the same way
        if ray.train.get_context().get_world_size() > 1 and not isinstance(e, StoppedError | TrainingDivergedError):
            raise  # the others may wait for this worker; these two errors end all workers


def _train(config: WorkerConfig) -> None:
    spec, recipe = config.spec, config.spec.recipe
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    import_plugins(recipe.plugins)
    device = _set_up_process(recipe, rank, context.get_local_world_size())
    handler = logs.installed(ChannelHandler(config.channel)) if rank == 0 else contextlib.nullcontext()
    with handler:
        ray.get(config.channel.reset_activities.remote())
        logger.info("%s: %d worker%s up on %s", spec.kind, world, "s are" if world > 1 else " is", device)
        entry = TASKS[spec.kind]
        section = entry.section(recipe)
        engines = functools.partial(
            make_engine, config=EngineConfig.from_recipe(recipe.parallel, section.batch, world, device)
        )
        task = entry.make(TaskContext(recipe, spec.corpus, engines, device, rank, spec.student, spec.reference))
        logger.info("%s: networks and optimizers are ready", spec.kind)
        # Read by one worker: the requests and bytes at the start of a run do not grow with the number of workers.
        indexes = collective.from_first(
            {s: read_index(spec.corpus, s) for s in ("train", "val")} if rank == 0 else None
        )
        batches = StreamConfig(
            index=indexes["train"],
            batch=section.batch,
            frames=entry.frames(recipe),
            speech_frames=section.speech_frames,
            seed=recipe.seed,
            steps=section.steps,
            rank=rank,
            world=world,
            task_cpus=config.task_cpus,
            window_share=entry.window_share(recipe),
        )
        data = DataSources(
            train=functools.partial(stream if entry.pictures else speech_stream, batches),
            validation=_validation(batches, indexes["val"], entry, entry.validation_frames(recipe)),
            samples=_samples(batches, indexes["val"]) if entry.pictures else None,
        )
        loop = LoopConfig(
            spec.run, config.token, spec.kind, section.steps, section.batch, recipe.log, device, spec.begin_from
        )
        report = functools.partial(_report, config.channel) if config.reports else None
        with ActivityReporter(rank, lambda activity: config.channel.activity.remote(activity)) as reporter:
            hooks = Hooks(report, config.reports, _preemption_notice, reporter.note)
            result = Trainer(task, data, loop, hooks).run()
        if rank == 0:
            ray.get(config.channel.finish.remote(result))


def _set_up_process(recipe: Recipe, rank: int, local_workers: int) -> torch.device:
    """Set priority, threads and seeds of this process; return its device.

    Ray starts its processes with a low priority (nice 15). The training thread and its children leave it, so that
    decoding and object stores on the same machine do not interrupt a step.
    """
    with contextlib.suppress(PermissionError):  # without the permission, training has the priority of Ray's tasks
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    device: torch.device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(recipe.parallel.threads or max(1, (os.cpu_count() or 1) // local_workers))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = recipe.parallel.tf32
    torch.backends.cudnn.benchmark = recipe.parallel.cudnn_benchmark
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(recipe.seed * 1009 + rank)
    return device


def _preemption_notice() -> str:
    """Return the nodes that will be taken away, or ""; a barrier of all workers."""
    info = ray.train.get_preemption_info()
    return (
        f"the machines {', '.join(n[:8] for n in info.preempted_node_ids)} are about to be taken away" if info else ""
    )


def _report(channel: Any, record: Record) -> None:
    """Send a record of worker 0 to the driver and wait for its decision.

    ``ray.train.report`` is not used: it holds one record until Ray polls, every 2 s, and training would wait for it.

    Raises:
        StoppedError: the driver ends the run.
    """
    continues = ray.get(channel.report.remote(record)) if collective.worker()[0] == 0 else None
    if not collective.from_first(continues):
        raise StoppedError(f"stopped at step {record['step']}")


def _validation(train: StreamConfig, index: SplitIndex, entry: TaskEntry, frames: int) -> Batches | None:
    """Return this worker's share of the validation split, the same each time; None if no clip is long enough."""
    clips = int((index.frames >= frames).sum())
    if clips == 0:
        return None
    steps = max(1, min(clips, VALIDATION_CLIPS) // train.batch)  # the same on all: ZeRO-3 is collective
    config = replace(train, index=index, frames=frames, seed=0, steps=steps, executor="local", window_share=1.0)
    return functools.partial(stream if entry.pictures else speech_stream, config)


def _samples(train: StreamConfig, index: SplitIndex) -> Callable[[], ClipBatch] | None:
    """Return the clips of the sample videos, always the same; None if there is no validation split."""
    if not len(index.frames):
        return None
    frames = min(train.speech_frames, int(index.frames.max()))
    config = replace(
        train,
        index=index,
        batch=SAMPLE_CLIPS,
        frames=frames,
        seed=0,
        steps=1,
        rank=0,
        world=1,
        executor="local",
        window_share=1.0,
    )
    return lambda: next(stream(config))
