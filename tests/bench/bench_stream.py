"""Training throughput with clips from S3, against the same step fed from memory and plain training scripts.

    python -m tests.bench.bench_stream CORPUS STUDENT [--recipe puppets] [--rounds 3] [--steps 40] [--json PATH]

CORPUS is a local corpus with teachers, STUDENT a student's bundle (RUN/bundle), both of the recipe. They are copied to
the S3 server that AWS_ENDPOINT_URL names (with its credentials, into a bucket of its own that is removed at the end),
or to moto's, in a process of its own on this machine. One after another, in turns, five sides take GAN steps with all
discriminators at work:

- **stack**: `launch.launch`, as `s2v train s3://corpus s3://run` calls it: one worker of Ray Train, Ray Data's tasks,
  the engines (one worker alone has `engine.TorchEngine`), the loop with its records.
- **memory**: the same worker, loop and step, but its batches are tensors that lie there already.
- **torchrun**: a training script without Ray (`plain_training.py`): `torchrun`, DeepSpeed, the same step, a torch
  DataLoader with one worker over the same clips on local disk (a folder a clip: JPEG frames, WAV, codes), the same
  windows and decoder.
- **torchrun, our malloc**: the same under the allocator settings that `launch.MALLOC` gives Ray's worker.
- **bare loop**: plain torch in one process, on batches that lie in memory, under the same allocator settings. Beside
  **memory** it shows what Ray Train, the engines and the loop with its records cost a step.

Who does not have the turn waits, and computes nothing. A turn of the stack is as long as a segment of the stream: Ray
Data decodes a segment ahead at once and then rests, so each turn pays for the decoding of exactly one. The rate of a
turn is all its clips over all its time, waiting for data and records included; ratios are of medians over rounds. What
comes after the last step (validation, checkpoint, bundle) is not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import wave
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.media.timing import SAMPLE_RATE
from s2v_ray.training.data import ray_stream as stream
from s2v_ray.training.data.decode import WindowSpec
from s2v_ray.training.runs import RunSpec
from tests.bench.turns import PATIENCE, Turn, Turns, take_turns
from tests.helpers.results import write_result

MOTO = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
BARS = {"memory": 0.95, "torchrun": 1.0, "torchrun, our malloc": 1.0}
PLAIN = ("torchrun", "torchrun, our malloc", "bare loop")
WARM_UP = 10
STEP_BAR = 1.05
"""Of the seconds a step through Ray Train and the engines / in the bare loop, both from memory."""


def alternating(address: tuple[str, int], segment: int) -> Callable[..., Iterator[ClipBatch]]:
    """In the place of ``stream.stream``: the real one, and its first segment again from memory, in turns."""

    def batches(config: stream.StreamConfig, start_step: int = 0) -> Iterator[ClipBatch]:
        # So many steps that also the last turn has one more segment to decode.
        source = stream.stream(replace(config, steps=2**30), start_step)
        kept = list(itertools.islice(source, segment))
        yield from take_turns(address, {"stack": source, "memory": itertools.cycle(kept)})
        yield from itertools.cycle(kept)  # to the end of the run

    return batches


def train_with(batches: Callable[..., Iterator[ClipBatch]], settings: dict[str, Any]) -> None:
    """``launch._worker``, in Ray's worker, with these batches and no validation."""
    from s2v_ray.training import launch

    with mock.patch.object(launch, "stream", batches), mock.patch.object(launch, "_validation", lambda *_: None):
        launch._worker(settings)


def train_on_s3(recipe: Recipe, root: str, batches: Callable[..., Iterator[ClipBatch]]) -> None:
    from s2v_ray.training import launch

    spec = RunSpec(
        "gan", recipe, storage.join(root, "corpus"), storage.join(root, "run"), storage.join(root, "student")
    )
    with mock.patch.object(launch, "_worker", functools.partial(train_with, batches)):
        launch.launch(spec)


def write_folders(corpus: str, folder: Path) -> None:
    """Write the training clips for a torch Dataset: ``folder/ID/{0000.jpg, ..., speech.wav, codes.npz}``."""
    for uri in shards.shard_uris(corpus, "train"):
        outputs = [shards.read_shard(shards.outputs_uri(corpus, role, uri)) for role in ("identity", "emotion")]
        for row, identity, emotion in zip(shards.read_shard(uri), *outputs, strict=True):
            clip = folder / row["id"]
            clip.mkdir(parents=True)
            for i, frame in enumerate(row["frames"]):
                (clip / f"{i:04d}.jpg").write_bytes(frame)
            with wave.open(str(clip / "speech.wav"), "wb") as f:
                f.setnchannels(1)
                f.setsampwidth(2)
                f.setframerate(SAMPLE_RATE)
                f.writeframes(row["speech"])
            np.savez(clip / "codes.npz", identity=shards.decode_output(identity), emotion=shards.decode_output(emotion))


def copy(source: str, target: str, leave_out: str) -> None:
    """All files of a folder, but those of one subfolder."""
    files = [uri for uri in storage.list_files(source) if not uri.startswith(storage.join(source, leave_out) + "/")]
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda uri: storage.write_bytes(
                    storage.join(target, uri.removeprefix(source)), storage.read_bytes(uri)
                ),
                files,
            )
        )


@contextlib.contextmanager
def s3_server() -> Iterator[subprocess.Popen[bytes] | None]:
    """Sets the environment to an S3 server: the one it names, or moto's in a process of its own, which is given."""
    if "AWS_ENDPOINT_URL" in os.environ:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.environ |= MOTO | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.1)
        yield server
    finally:
        server.terminate()
        server.wait()
        del os.environ["AWS_ENDPOINT_URL"]


@contextlib.contextmanager
def plain(address: tuple[str, int], name: str, environment: dict[str, str], words: Sequence[str]) -> Iterator[None]:
    """``plain_training.py``, while inside; under torchrun where it is named so."""
    torchrun = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"] if name.startswith("torchrun") else []
    )
    started = subprocess.Popen(
        [sys.executable, *torchrun, "-m", "tests.bench.plain_training", *map(str, address), name, *words],
        env=os.environ | environment,
    )
    try:
        yield
        started.wait(60)
    finally:
        started.terminate()  # torchrun ends its workers
        started.wait()


def measure(
    args: argparse.Namespace,
    recipe: Recipe,
    segment: int,
    folder: Path,
    root: str,
    server: subprocess.Popen[bytes] | None,
) -> dict[str, Any]:
    """Turns of each side, round by round, and the CPU seconds of the S3 server in each turn of the stack."""
    from s2v_ray.training.launch import MALLOC

    turns, gone, found = Turns(), threading.Event(), dict[str, Any]()

    def give() -> None:
        well = False
        try:
            found.update(rounds(args, turns, segment, recipe.gan.batch, server))
            well = True
        except Exception as e:
            found["error"] = e
        turns.end(well)
        gone.set()

    words = [str(folder / "clips"), args.corpus, args.student, recipe.model_dump_json()]
    with contextlib.ExitStack() as others:
        for name in PLAIN:
            others.enter_context(plain(turns.address, name, {} if name == "torchrun" else MALLOC, words))
        threading.Thread(target=give, daemon=True).start()
        try:
            train_on_s3(recipe, root, alternating(turns.address, segment))
        except Exception:
            if "error" not in found:
                raise
        gone.wait(PATIENCE)
    if "error" in found:
        raise found["error"]
    return found


def rounds(
    args: argparse.Namespace, turns: Turns, segment: int, batch: int, server: subprocess.Popen[bytes] | None
) -> dict[str, Any]:
    import psutil

    def spent() -> float:
        return sum(psutil.Process(server.pid).cpu_times()[:2]) if server else 0.0

    sides = {"stack": segment} | dict.fromkeys(("memory", *PLAIN), args.steps)
    found: dict[str, list[Turn]] = {side: [] for side in sides}
    served = []
    turns.wait_for(len(sides))
    for side in (*PLAIN, "memory"):
        turns.run(
            side, args.steps if side == "memory" else min(WARM_UP, args.steps)
        )  # meanwhile the second segment is decoded
    for n in range(args.rounds):
        for side, steps in list(sides.items())[:: 1 if n % 2 == 0 else -1]:
            before = spent()
            found[side].append(turns.run(side, steps))
            served += [spent() - before] if side == "stack" else []
            print(f"round {n + 1}: {side} {steps * batch / found[side][-1]['seconds']:.2f} clips/s", flush=True)
    return {"turns": found, "server_cpu_seconds": served if server else []}


def table(found: dict[str, list[Turn]], batch: int) -> dict[str, dict[str, float]]:
    rates = {side: [t["steps"] * batch / t["seconds"] for t in turns] for side, turns in found.items()}
    rows = {}
    for side, turns in found.items():
        rows[side] = {
            "clips_per_second": statistics.median(rates[side]),
            "step_ms": 1000 * statistics.median(t["step"] for t in turns),
            "waited": sum(t["waited"] for t in turns) / sum(t["seconds"] for t in turns),
            "stack_over_this": statistics.median(rates["stack"]) / statistics.median(rates[side]),
            "lowest": min(a / b for a, b in zip(rates["stack"], rates[side], strict=True)),
            "highest": max(a / b for a, b in zip(rates["stack"], rates[side], strict=True)),
        }
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("student")
    parser.add_argument("--recipe", default="puppets")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of a turn of all sides but the stack")
    parser.add_argument(
        "--stack-steps",
        type=int,
        help="of a turn of the stack, for a first try; default: a segment, since only then each turn pays for one",
    )
    parser.add_argument("--json")
    args = parser.parse_args()
    if min(args.rounds, args.steps) < 1:
        parser.error("there must be a round and a step")
    args.corpus, args.student = storage.absolute(args.corpus), storage.absolute(args.student)
    starts = [f"gan.discriminators.{name}.start=0" for name in ("frame", "mouth", "sync", "emotion")]
    recipe = load_recipe(args.recipe, [*args.set, *starts])
    gan, size = recipe.gan, shards.read_corpus_manifest(args.corpus)["size"]
    window = WindowSpec(args.corpus, gan.frames, gan.speech_frames, recipe.seed)
    segment = args.stack_steps or stream.segment_clips(stream.SEGMENT_BYTES, window, size) // gan.batch
    steps = (
        args.steps + args.rounds * (segment + args.steps) + 1
    )  # of the stack's worker; the checkpoint comes with the last
    recipe = load_recipe(
        args.recipe, [*args.set, *starts, f"gan.steps={steps}", f"log.checkpoint_every={steps}", "log.samples_every=0"]
    )
    with s3_server() as server, tempfile.TemporaryDirectory() as folder:
        import boto3
        import ray

        from s2v_ray.cluster.runtime import start_ray

        bucket = boto3.resource("s3").Bucket(f"s2v-bench-{uuid.uuid4().hex[:8]}")
        bucket.create()
        try:
            write_folders(args.corpus, Path(folder) / "clips")
            copy(args.corpus, f"s3://{bucket.name}/corpus", "test")
            copy(args.student, f"s3://{bucket.name}/student", "checkpoints")
            start_ray()
            found = measure(args, recipe, segment, Path(folder), f"s3://{bucket.name}", server)
            ray.shutdown()
        finally:
            bucket.objects.delete()
            bucket.delete()
    rows = table(found["turns"], gan.batch)
    print(
        f"{args.rounds} rounds of {segment} steps of the stack and {args.steps} of each other side, {gan.batch} clips "
        f"a step, {size} x {size}"
    )
    print(f"{'':22}{'clips/s':>9}{'median step':>13}{'waited':>8}{'stack / this':>14}{'(rounds)':>16}{'bar':>7}")
    for side, row in rows.items():
        line = f"{side:22}{row['clips_per_second']:9.2f}{row['step_ms']:10.0f} ms{row['waited']:8.1%}"
        if side != "stack":
            line += f"{row['stack_over_this']:14.3f}{row['lowest']:9.3f}-{row['highest']:.3f}" + (
                f" {BARS[side]:7.2f}" if side in BARS else ""
            )
        print(line)
    turns = {side: [t["seconds"] / t["steps"] for t in found["turns"][side]] for side in ("memory", "bare loop")}
    step = statistics.median(turns["memory"]) / statistics.median(turns["bare loop"])
    each = sorted(a / b for a, b in zip(turns["memory"], turns["bare loop"], strict=True))
    print(
        f"a step through Ray Train and the engines / in the bare loop: {step:.3f} (rounds "
        f"{each[0]:.3f}-{each[-1]:.3f}; bar: at most {STEP_BAR})"
    )
    if found["server_cpu_seconds"]:
        share = statistics.median(found["server_cpu_seconds"]) / (segment * gan.batch)
        print(
            f"the S3 server on this machine took {1000 * share:.1f} ms of CPU a clip; the sides beside the stack had "
            "nothing of the kind to pay"
        )
    if args.json:
        result = {
            "rounds": args.rounds,
            "segment": segment,
            "steps": args.steps,
            "batch": gan.batch,
            "sides": rows,
            "step_over_bare": step,
            **found,
        }
        write_result(args.json, result)
    return 0 if step <= STEP_BAR and all(rows[side]["stack_over_this"] >= bar for side, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
