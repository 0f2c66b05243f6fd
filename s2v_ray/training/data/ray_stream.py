"""The stream of training batches: decodes what the plan names, with Ray Data on a cluster or in a thread."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from s2v_ray.clip import ClipBatch, SpeechBatch, part_sizes
from s2v_ray.cluster.runtime import value_error_of
from s2v_ray.split_index import SplitIndex
from s2v_ray.training.data.decode import Window, WindowSpec, collate, collate_speech, decode_jobs
from s2v_ray.training.data.plan import (
    EpochOrder,
    PlannedClip,
    Row,
    RowGroupJob,
    planned_clips,
    row_group_jobs,
    segments,
)

SEGMENT_BYTES = 192 * 2**20
"""Decoded windows of one Ray Data execution. A worker holds at most two segments.

Ray Data decodes a segment at once into the worker's memory while the previous one is consumed. An execution that waits
for its consumer would spin: its executor, a thread of the worker, then competes with training for the interpreter (a
step on two cores took 1.1 s instead of 0.4 s).
"""
MIN_SEGMENT_CLIPS = 160
"""Smallest segment: a row group whose clips lie in two segments is read twice."""
FIRST_CLIPS = 160
"""Windows that a worker decodes itself while the processes of its first Ray Data execution start."""
BLOCK_CLIPS = 64
"""Approximate number of clips decoded by one Ray Data task."""
MAX_SEGMENTS = 2
"""Segments in memory: one that is consumed and one that is decoded."""

AHEAD_BATCHES = 1
"""Batches that are collated before they are needed."""

B = TypeVar("B", bound=SpeechBatch)
Segment = list[PlannedClip]
Decode = Callable[[Segment], Iterator[list[Window]]]
"""A segment -> the windows of its row-group jobs, in order."""


@dataclass(frozen=True)
class StreamConfig:
    """A worker's stream of batches.

    Attributes:
        index: index of the split.
        batch: clips in a step over all workers.
        frames: T, target frames; shorter clips are not used.
        speech_frames: L >= T, frames of speech.
        seed: seed of order and windows.
        steps: end of the run.
        rank: this worker.
        world: number of workers.
        teachers: whether the teachers' outputs are joined.
        executor: "ray": Ray Data executions, after the first ``FIRST_CLIPS``; "local": the same clips in the same order
            from a thread.
        task_cpus: CPUs reserved for one Ray Data task.
        window_share: see ``WindowSpec``.
    """

    index: SplitIndex
    batch: int
    frames: int
    speech_frames: int
    seed: int
    steps: int
    rank: int = 0
    world: int = 1
    teachers: bool = True
    executor: Literal["ray", "local"] = "ray"
    task_cpus: float = 1.0
    window_share: float = 1.0

    @property
    def clips(self) -> int:
        """Clips of this worker in a step."""
        return part_sizes(self.batch, self.world)[self.rank]

    def window(self, *, pictures: bool) -> WindowSpec:
        """Return what is cut out of each clip."""
        corpus, share = self.index.corpus, self.window_share
        return WindowSpec(corpus, self.frames, self.speech_frames, self.seed, self.teachers, share, pictures)


def stream(config: StreamConfig, start_step: int = 0) -> Generator[ClipBatch]:
    """Yield this worker's batches of the steps from ``start_step`` to ``config.steps``, epoch after epoch.

    Raises:
        ArtifactError: there is no usable clip, or a shard is damaged.
    """
    return _ahead(collate, _batches(config, config.window(pictures=True), start_step))


def speech_stream(config: StreamConfig, start_step: int = 0) -> Generator[SpeechBatch]:
    """Yield the same clips as ``stream`` without their frames, which are not read."""
    return _ahead(collate_speech, _batches(config, config.window(pictures=False), start_step))


def _ahead(collate: Callable[[list[Window]], B], batches: Generator[list[Window]]) -> Generator[B]:
    """Yield collated batches. A thread collates the next one, in page-locked memory if there is a GPU."""
    room, closed = threading.Semaphore(AHEAD_BATCHES), threading.Event()
    ready: queue.Queue[B | BaseException | None] = queue.Queue()
    pin = torch.cuda.is_available()

    def work() -> None:
        try:
            with contextlib.closing(batches):
                for windows in batches:
                    batch = collate(windows)
                    ready.put(batch.pinned() if pin else batch)
                    room.acquire()
                    if closed.is_set():
                        return
            ready.put(None)
        except BaseException as e:  # raised by the consumer
            ready.put(e)

    threading.Thread(target=work, daemon=True, name="collate-ahead").start()
    try:
        while (batch := ready.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            room.release()
            yield batch
    finally:
        closed.set()
        room.release()


def _batches(config: StreamConfig, window: WindowSpec, start_step: int) -> Generator[list[Window]]:
    """Yield the windows of each batch."""
    clips = planned_clips(
        EpochOrder(config.index, config.frames, config.seed),
        batch=config.batch,
        steps=config.steps,
        start_step=start_step,
        rank=config.rank,
        world=config.world,
    )
    first = list(itertools.islice(clips, FIRST_CLIPS))
    others = segments(clips, segment_clips(SEGMENT_BYTES, window, config.index.size))
    decode_here = functools.partial(_decode_in_process, spec=window)
    decode_others = functools.partial(_decode_with_ray, spec=window, cpus=config.task_cpus)

    def decode(segment: Segment) -> Iterator[list[Window]]:
        return decode_here(segment) if config.executor == "local" or segment is first else decode_others(segment)

    pending: list[Window] = []
    for sample in _prefetch(itertools.chain([first], others), decode):
        pending.append(sample)
        if len(pending) == config.clips:
            yield pending
            pending = []


def segment_clips(size_bytes: int, window: WindowSpec, side: int) -> int:
    """Return how many decoded windows fit ``size_bytes``; at least ``MIN_SEGMENT_CLIPS``."""
    return max(MIN_SEGMENT_CLIPS, size_bytes // window.nbytes(side))


def _prefetch(segments: Iterator[Segment], decode: Decode) -> Iterator[Window]:
    """Yield windows in the plan's order. A thread decodes one segment while another is consumed, and never more."""
    ready: queue.Queue[Any] = queue.Queue()
    room, closed = threading.Semaphore(MAX_SEGMENTS), threading.Event()

    def work() -> None:
        try:
            for segment in segments:
                room.acquire()
                if closed.is_set():
                    return
                ready.put(segment)
                for windows in decode(segment):
                    if closed.is_set():
                        return
                    ready.put(windows)
            ready.put(None)
        except BaseException as e:  # raised by the consumer
            ready.put(e)

    def take() -> Any:
        item = ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    threading.Thread(target=work, daemon=True, name="decode-ahead").start()
    try:
        while (segment := take()) is not None:
            yield from _in_order(segment, (take() for _ in itertools.count()))
            room.release()
    finally:
        closed.set()
        room.release()


def _in_order(segment: Segment, decoded: Iterator[list[Window]]) -> Iterator[Window]:
    """Reorder decoded row groups to the plan's order; at most about ``LANE_CLIPS`` of each lane wait."""
    waiting: dict[PlannedClip, Window] = {}
    jobs = iter(row_group_jobs(segment))
    for clip in segment:
        while clip not in waiting:
            job = next(jobs)
            for row, window in zip(job.rows, next(decoded), strict=True):
                waiting[PlannedClip(job.epoch, Row(job.uri, job.group, row))] = window
        yield waiting.pop(clip)


def _decode_in_process(segment: Segment, spec: WindowSpec) -> Iterator[list[Window]]:
    return decode_jobs(row_group_jobs(segment), spec)


def _decode_with_ray(segment: Segment, spec: WindowSpec, cpus: float) -> Iterator[list[Window]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # otherwise the cause is lost
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    jobs = row_group_jobs(segment)
    items = [job._asdict() | {"rows": list(job.rows)} for job in jobs]
    per_task = max(1, round(BLOCK_CLIPS * len(jobs) / len(segment)))
    dataset = ray.data.from_items(items, override_num_blocks=-(-len(jobs) // per_task)).map_batches(
        _decode_block, fn_args=(spec,), batch_size=None, batch_format="numpy", num_cpus=cpus
    )
    counts = iter([len(job.rows) for job in jobs])
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=4):
            at = 0
            while at < len(block["id"]):
                n = next(counts)
                yield [{name: values[i] for name, values in block.items()} for i in range(at, at + n)]
                at += n
    except ray.exceptions.RayTaskError as e:
        raise value_error_of(e) or e from None


def _decode_block(block: dict[str, np.ndarray], spec: WindowSpec) -> dict[str, np.ndarray]:
    columns = zip(block["epoch"], block["uri"], block["group"], block["rows"], strict=True)
    jobs = (RowGroupJob(int(e), str(u), int(g), tuple(int(r) for r in rows)) for e, u, g, rows in columns)
    windows = list(itertools.chain.from_iterable(decode_jobs(jobs, spec)))
    return {name: np.stack([w[name] for w in windows]) for name in windows[0]}
