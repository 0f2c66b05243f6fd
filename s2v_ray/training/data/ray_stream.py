"""Batches of windows for training: a plan (pure) and a Ray Data pipeline that follows it.

An epoch is a line of row groups (8 clips each, the unit of reading), cut into lanes; each step takes the next clips of every
lane, and a worker reads the lanes that its part of the batch comes from. So memory stays small, a row group is read by one
worker, and neighbours in a batch come from many places of the corpus. Which clips a step takes is a function of seed, step and
the size of the whole batch, never of how many workers share it: a run that goes on, on as many workers or on others, sees the
very clips and windows it would have seen, each once an epoch.
"""

from __future__ import annotations

import functools
import itertools
import logging
import queue
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch
from s2v_ray.media.timing import frames_to_samples

LANE_CLIPS = 16
"""Clips of a lane among which the next one is drawn."""
SHORTEST_LANE = 8
"""Clips that a lane has at least where there are so many: one row group."""
SEGMENT_BYTES = 192 * 2**20
"""Decoded windows of one Ray Data pipeline; then the next begins. A worker holds at most two segments.

Ray Data decodes a segment at once, into the worker's memory, while the one before is consumed. A pipeline that must wait for its
consumer would spin: its executor, a thread of the worker, then takes the interpreter away from training (a step on two cores
took 1.1 s instead of 0.4 s).
"""
LEAST_CLIPS = 160
"""Windows of a segment at least, however large they are: a row group whose clips lie in two segments is read twice."""
FIRST_CLIPS = 160
"""Windows that a worker decodes itself before its first pipeline has come up, which takes Ray Data's processes a while: training begins without it."""
BLOCK_CLIPS = 64
"""Clips decoded by one Ray Data task, about."""
READ_AHEAD = 4
"""Row groups that are read at once: the answers of an object store take longer than decoding what they bring."""

Sample = dict[str, np.ndarray]
Segment = list[tuple[int, "Row"]]  # epoch and place of each clip, in order


@dataclass(frozen=True)
class ShardIndex:
    """A shard, and the rows of each of its row groups that are long enough."""

    uri: str
    groups: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Row:
    """Where a clip lies: row ``row`` of row group ``group``."""

    uri: str
    group: int
    row: int


@dataclass(frozen=True)
class Window:
    """What is cut out of a clip. Frames and shapes as in ``ClipBatch``."""

    frames: int
    speech_frames: int
    seed: int
    corpus: str
    teachers: bool


def read_index(corpus: str, split: str, frames: int) -> list[ShardIndex]:
    """The shards of a split and their clips of at least ``frames`` frames; only footers and one column are read.

    Raises:
        ArtifactError: no shard, a damaged one, or no clip that is long enough.
    """

    def index(uri: str) -> ShardIndex:
        with shards.open_shard(uri) as f:
            groups = [f.read_row_group(g, ["num_frames"])["num_frames"].to_numpy() for g in range(f.num_row_groups)]
        return ShardIndex(uri, tuple(tuple(np.flatnonzero(n >= frames).tolist()) for n in groups))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(index, shards.shard_uris(corpus, split)))
    if not any(rows for shard in found for rows in shard.groups):
        raise storage.ArtifactError(
            f"the {split} split of {corpus} has no clip of {frames} frames or more: run `s2v ingest`, or take a larger share for it"
        )
    return found


def lanes_of(clips: int, batch: int) -> int:
    """Lanes of an epoch of ``clips``: the most that divide ``batch`` (of all workers together) and are long enough."""
    most = max(1, clips // SHORTEST_LANE)
    return max(n for n in range(1, batch + 1) if batch % n == 0 and n <= most)


def plan(index: Sequence[ShardIndex], *, seed: int, epoch: int, lane: int, lanes: int) -> list[Row]:
    """The clips of a lane in an epoch, in order.

    Row groups are shuffled and laid out in a line that is cut into equal lanes; the clips of a lane are drawn from a window
    of ``LANE_CLIPS``. All lanes together hold every clip exactly once.
    """
    line = _line(tuple(index), seed, epoch)
    part = line[len(line) * lane // lanes : len(line) * (lane + 1) // lanes]
    rng = np.random.default_rng([seed, epoch, lane])
    window, order = part[:LANE_CLIPS], []
    for row in part[LANE_CLIPS:]:
        i = int(rng.integers(len(window)))
        order.append(window[i])
        window[i] = row
    return order + [window[i] for i in rng.permutation(len(window))]


@functools.lru_cache(maxsize=2)
def _line(index: tuple[ShardIndex, ...], seed: int, epoch: int) -> list[Row]:
    """All clips of an epoch, row group after row group."""
    groups = [(shard.uri, g) for shard in index for g in range(len(shard.groups))]
    usable = {(shard.uri, g): rows for shard in index for g, rows in enumerate(shard.groups)}
    np.random.default_rng([seed, epoch]).shuffle(groups)
    return [Row(uri, g, row) for uri, g in groups for row in usable[uri, g]]


def rows_of(
    index: Sequence[ShardIndex],
    *,
    seed: int,
    batch: int,
    rank: int = 0,
    world: int = 1,
    start_step: int = 0,
    steps: int,
) -> Iterator[tuple[int, Row]]:
    """Epoch and place of each clip that a worker sees in the steps from ``start_step`` to ``steps``.

    Args:
        batch: clips in a step, all workers together; a multiple of ``world``.
    """
    total = sum(len(rows) for shard in index for rows in shard.groups)
    lanes = lanes_of(total, batch)
    each = batch // lanes  # clips of a lane in a step
    mine = [divmod(position, each) for position in range(batch * rank // world, batch * (rank + 1) // world)]
    plans: dict[int, tuple[int, list[Row]]] = {}  # lane -> its plan in the epoch it is in
    for step in range(start_step, steps):
        for lane, offset in mine:
            length = total * (lane + 1) // lanes - total * lane // lanes
            epoch, place = divmod(step * each + offset, length)
            if lane not in plans or plans[lane][0] != epoch:
                plans[lane] = epoch, plan(index, seed=seed, epoch=epoch, lane=lane, lanes=lanes)
            yield epoch, plans[lane][1][place]


def stream(
    corpus: str,
    split: str,
    *,
    batch: int,
    frames: int,
    speech_frames: int,
    seed: int,
    steps: int,
    start_step: int = 0,
    rank: int = 0,
    world: int = 1,
    teachers: bool = True,
    executor: Literal["ray", "local"] = "ray",
    cpus: float = 1.0,
) -> Iterator[ClipBatch]:
    """This worker's batches of the steps from ``start_step`` to ``steps``; epochs follow one another without a seam.

    Args:
        batch: clips of this worker in a step.
        frames: T, frames shown; clips that are shorter are left out.
        speech_frames: L >= T, frames heard.
        teachers: join the outputs of the teachers.
        executor: "ray": Ray Data pipelines on the cluster, after the first ``FIRST_CLIPS``; "local": the same clips in the same order from a thread.
        cpus: CPUs reserved for one Ray Data task.

    Raises:
        ArtifactError: no clip to give, or a damaged shard.
    """
    index = read_index(corpus, split, frames)
    window = Window(frames, speech_frames, seed, corpus, teachers)
    rows = rows_of(index, seed=seed, batch=batch * world, rank=rank, world=world, start_step=start_step, steps=steps)
    first = list(itertools.islice(rows, FIRST_CLIPS))
    others = _chunks(rows, clips_in(SEGMENT_BYTES, window, shards.read_corpus_manifest(corpus)["size"]))
    decode_others = functools.partial(_decode_with_ray, cpus=cpus) if executor == "ray" else _decode_here
    pending: list[Sample] = []
    for sample in _ahead(
        itertools.chain([first], others),
        lambda segment: (_decode_here if segment is first else decode_others)(segment, window),
    ):
        pending.append(sample)
        if len(pending) == batch:
            yield collate(pending)
            pending = []


def clips_in(size_bytes: int, window: Window, side: int) -> int:
    """Decoded windows, of frames with ``side`` pixels, that ``size_bytes`` hold; at least ``LEAST_CLIPS``."""
    each = (window.frames + 1) * side * side * 3 + frames_to_samples(window.speech_frames) * 2
    return max(LEAST_CLIPS, size_bytes // each)


def collate(samples: Sequence[Sample]) -> ClipBatch:
    """Decoded windows -> a batch; pixels stay uint8."""
    stacked = {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in samples[0] if name != "id"}
    stacked["speech"] = stacked["speech"].float().div_(32767.0).clamp_(-1.0, 1.0)
    return ClipBatch(**stacked, ids=[str(s["id"]) for s in samples])


Job = tuple[int, str, int, tuple[int, ...]]  # epoch, shard, row group, rows


def decode_jobs(jobs: Iterable[Job], window: Window) -> Iterator[list[Sample]]:
    """Windows cut out of the named rows, row group after row group; meanwhile the next ``READ_AHEAD`` are being read."""
    waiting = iter(jobs)
    with ThreadPoolExecutor(READ_AHEAD, "read-ahead") as pool:

        def ask(count: int) -> Iterator[tuple[Job, Any]]:
            return ((job, pool.submit(_read_group, job, window)) for job in itertools.islice(waiting, count))

        reading = deque(ask(READ_AHEAD))
        while reading:
            (epoch, _, _, rows), read = reading.popleft()
            columns, outputs = read.result()
            reading.extend(ask(1))
            yield [
                _cut_row(columns, row, {role: values[i] for role, values in outputs.items()}, window, epoch)
                for i, row in enumerate(rows)
            ]


def _read_group(job: Job, window: Window) -> tuple[dict[str, Any], dict[str, list[np.ndarray]]]:
    """Columns of a row group, and what the teachers say of the rows named, by role."""
    _, uri, group, rows = job
    with shards.open_shard(uri) as f:
        table = f.read_row_group(group, ["id", "num_frames", "frames", "speech"], use_threads=False).combine_chunks()
    columns = {name: table[name].to_pylist() for name in ("id", "num_frames")} | {
        name: table[name].chunk(0) for name in ("frames", "speech")
    }
    named = [columns["id"][row] for row in rows]
    return columns, {
        role: _read_outputs(window.corpus, role, uri, group, rows, named)
        for role in ("identity", "emotion")
        if window.teachers
    }


def _cut_row(columns: dict[str, Any], row: int, outputs: dict[str, np.ndarray], window: Window, epoch: int) -> Sample:
    frame = functools.partial(_nth, columns["frames"][row].values)
    return cut_window(
        columns["id"][row],
        columns["num_frames"][row],
        frame,
        columns["speech"][row].as_buffer(),
        outputs,
        window,
        epoch,
    )


def _nth(encoded: Any, k: int) -> bytes:
    """One value of a ``pa.BinaryArray``."""
    value: bytes = encoded[k].as_py()
    return value


def cut_window(
    clip_id: str,
    n: int,
    encoded: Callable[[int], bytes],
    speech: bytes | memoryview,
    outputs: dict[str, np.ndarray],
    window: Window,
    epoch: int,
) -> Sample:
    """A random window of a clip; only its frames, and one still, are decoded. The draw depends on seed, epoch and clip alone.

    Args:
        n: the clip's frames. encoded: number of a frame -> its JPEG. speech: little-endian int16 PCM of the whole clip.
        outputs: the teachers', by role, for the whole clip.
    """
    t, heard = window.frames, window.speech_frames
    rng = np.random.default_rng([window.seed, epoch, zlib.crc32(clip_id.encode())])
    first = int(rng.integers(n - t + 1))
    earliest, latest = max(0, first + t - heard), min(first, max(0, n - heard))
    offset = int(rng.integers(earliest, latest + 1))  # first frame heard
    length = min(heard, n - offset)
    outside = n - t
    still = int(rng.integers(outside)) if outside else int(rng.integers(n))
    still += t if outside and still >= first else 0
    pixels = shards.decode_frames([encoded(k) for k in [*range(first, first + t), still]])
    said = np.zeros(frames_to_samples(heard), np.int16)
    samples = np.frombuffer(speech, "<i2")[frames_to_samples(offset) : frames_to_samples(offset + length)]
    said[: len(samples)] = samples
    found: Sample = {
        "id": np.asarray(clip_id),
        "frames": pixels[:t],
        "still": pixels[t],
        "speech": said,
        "start": np.asarray(first - offset, np.int64),
        "speech_mask": np.arange(heard) < length,
    }
    if "identity" in outputs:
        found["identity"] = outputs["identity"]
    if "emotion" in outputs:
        found["emotion"] = np.zeros((heard, outputs["emotion"].shape[1]), np.float32)
        found["emotion"][:length] = outputs["emotion"][offset : offset + length]
    return found


def _read_outputs(
    corpus: str, role: str, shard: str, group: int, rows: Sequence[int], ids: list[str]
) -> list[np.ndarray]:
    uri = shards.outputs_uri(corpus, role, shard)
    try:
        with shards.open_shard(uri) as f:
            table = f.read_row_group(group, use_threads=False).take(list(rows)) if group < f.num_row_groups else None
    except FileNotFoundError:
        raise storage.ArtifactError(f"the {role} teacher has no outputs for {shard}: run `s2v teach`") from None
    if table is None or table["id"].to_pylist() != ids:
        raise storage.ArtifactError(
            f"the {role} teacher's outputs {uri} belong to other clips than {shard} holds: run `s2v teach` again"
        )
    flat = [v.values.to_numpy(zero_copy_only=False) for v in table["values"]]
    return [
        values.astype(np.float32).reshape(shape) for values, shape in zip(flat, table["shape"].to_pylist(), strict=True)
    ]


def _chunks(rows: Iterator[tuple[int, Row]], size: int) -> Iterator[Segment]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _jobs(rows: Segment) -> list[Job]:
    """Row groups in the order in which they are first needed."""
    jobs: dict[tuple[int, str, int], list[int]] = {}
    for epoch, row in rows:
        jobs.setdefault((epoch, row.uri, row.group), []).append(row.row)
    return [(*key, tuple(found)) for key, found in jobs.items()]


def _in_order(rows: Segment, decoded: Iterator[list[Sample]]) -> Iterator[Sample]:
    """Decoded row groups -> samples in the plan's order; at most about ``LANE_CLIPS`` of each lane wait."""
    waiting: dict[tuple[int, Row], Sample] = {}
    jobs = iter(_jobs(rows))
    for key in rows:
        while key not in waiting:
            epoch, uri, group, members = next(jobs)
            waiting.update({(epoch, Row(uri, group, m)): s for m, s in zip(members, next(decoded), strict=True)})
        yield waiting.pop(key)


def _ahead(segments: Iterator[Segment], decode: Callable[[Segment], Iterator[list[Sample]]]) -> Iterator[Sample]:
    """Samples in the plan's order. A thread decodes one segment while another is consumed, and never more."""
    ready: queue.Queue[Any] = queue.Queue()
    room, closed = threading.Semaphore(2), threading.Event()

    def work() -> None:
        try:
            for segment in segments:
                room.acquire()
                if closed.is_set():
                    return
                ready.put(segment)
                for samples in decode(segment):
                    if closed.is_set():
                        return
                    ready.put(samples)
            ready.put(None)
        except BaseException as e:  # handed to the reader
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


def _decode_here(segment: Segment, window: Window) -> Iterator[list[Sample]]:
    return decode_jobs(_jobs(segment), window)


def _decode_with_ray(rows: Segment, window: Window, cpus: float) -> Iterator[list[Sample]]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else the cause is lost on its way here
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    jobs = _jobs(rows)
    items = [{"epoch": e, "uri": u, "group": g, "rows": list(r)} for e, u, g, r in jobs]
    per_task = max(1, round(BLOCK_CLIPS * len(jobs) / len(rows)))
    blocks = -(-len(jobs) // per_task)
    dataset = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        _decode_block, fn_args=(window,), batch_size=None, batch_format="numpy", num_cpus=cpus
    )
    counts = iter([len(r) for *_, r in jobs])
    try:
        for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=4):
            at = 0
            while at < len(block["id"]):
                n = next(counts)
                yield [{name: values[i] for name, values in block.items()} for i in range(at, at + n)]
                at += n
    except ray.exceptions.RayTaskError as e:
        cause: BaseException | None = e
        while cause is not None and (isinstance(cause, ray.exceptions.RayError) or not isinstance(cause, ValueError)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise cause or e from None


def _decode_block(block: dict[str, np.ndarray], window: Window) -> dict[str, np.ndarray]:
    jobs = zip(block["epoch"], block["uri"], block["group"], block["rows"], strict=True)
    found = decode_jobs(((int(e), str(u), int(g), tuple(int(r) for r in rows)) for e, u, g, rows in jobs), window)
    samples = list(itertools.chain.from_iterable(found))
    return {name: np.stack([s[name] for s in samples]) for name in samples[0]}
