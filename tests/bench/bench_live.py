"""Measures live sessions on Ray Serve: latency from audio in to frame out, and sessions that share a replica.

    python -m tests.bench.bench_live [--bundle runs/generator/bundle] [--json PATH]
        [--seconds 30] [--sessions 1 2 3 4] [--plain]

Latency is the time from sending the first sample of a frame to receiving the frame, so it includes the frame itself
(40 ms) and the look-ahead, but not the 20 ms in which a microphone fills a chunk before it is sent. Clients run in
this process and share the cores. A frame is missed if it was skipped, or comes later than ``LATE_SECONDS``. Without
--bundle, the networks of the recipe puppets have random weights, which have the same speed. Starts its own Ray
instance; --plain runs the application in this process instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.asyncio.client import ClientConnection, connect

from s2v_ray.config import load_recipe
from s2v_ray.media.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.serving.api import create_app
from s2v_ray.serving.app import local_endpoint
from s2v_ray.serving.bundles import LocalBundles
from s2v_ray.serving.live_protocol import FRAME_HEADER
from s2v_ray.serving.service import Service
from s2v_ray.serving.settings import parse_settings
from tests.helpers import sounds
from tests.helpers.live import pcm
from tests.helpers.results import write_result
from tests.helpers.servers import free_port, listening

CHUNK_SAMPLES = SAMPLE_RATE // 50
LATE_SECONDS = 0.5
WARM_UP_FRAMES = 25
"""Frames at the start of a session that are not measured."""
EMOTIONS = ("neutral", "happy", "sad", "angry", "surprised")


@dataclass
class Talk:
    """What one client measured."""

    sent_at: list[float] = field(default_factory=list)  # of each chunk
    frames: dict[int, float] = field(default_factory=dict)  # index -> when it was received
    ended: dict[str, Any] = field(default_factory=dict)

    def latencies(self) -> list[float]:
        per_frame = SAMPLES_PER_FRAME / CHUNK_SAMPLES
        return [at - self.sent_at[int(i * per_frame)] for i, at in self.frames.items() if i >= WARM_UP_FRAMES]


async def speak(connection: ClientConnection, data: bytes, talk: Talk) -> None:
    """Sends audio at the speed at which it would be spoken."""
    began = time.monotonic()
    for n, i in enumerate(range(0, len(data), 2 * CHUNK_SAMPLES)):
        await asyncio.sleep(max(0.0, began + n * CHUNK_SAMPLES / SAMPLE_RATE - time.monotonic()))
        talk.sent_at.append(time.monotonic())
        await connection.send(data[i : i + 2 * CHUNK_SAMPLES])
    await connection.send(json.dumps({"type": "end"}))


async def run_session(address: str, seconds: float, seed: int) -> Talk:
    talk = Talk()
    async with connect(address) as connection:
        await connection.send(json.dumps({"type": "hello", "seed": seed}))
        started = json.loads(await connection.recv())
        assert started["type"] == "started", started
        speaking = asyncio.create_task(speak(connection, pcm(sounds.speech(seconds, seed)), talk))
        async for message in connection:
            if isinstance(message, bytes):
                index, _ = FRAME_HEADER.unpack_from(message)
                talk.frames[index] = time.monotonic()
                await connection.send(json.dumps({"type": "ack", "frame": index}))
            elif (event := json.loads(message))["type"] == "ended":
                talk.ended = event
        await speaking
    return talk


async def run_sessions(address: str, seconds: float, count: int) -> list[Talk]:
    """Runs sessions that begin at different times within a frame."""

    async def later(i: int) -> Talk:
        await asyncio.sleep(0.04 * i / count)
        return await run_session(address, seconds, i)

    return await asyncio.gather(*(later(i) for i in range(count)))


def measure(address: str, seconds: float, count: int) -> dict[str, Any]:
    talks = asyncio.run(run_sessions(address, seconds, count))
    latencies = np.array([latency for talk in talks for latency in talk.latencies()])
    expected = count * (round(25 * seconds) - WARM_UP_FRAMES)
    on_time = int((latencies <= LATE_SECONDS).sum())
    return {
        "sessions": count,
        "latency, median ms": round(1000 * float(np.median(latencies)), 1),
        "latency, 95th percentile ms": round(1000 * float(np.percentile(latencies, 95)), 1),
        "missed frames": round(1 - on_time / expected, 5),
        "skipped frames": sum(talk.ended["skipped"] for talk in talks),
    }


def random_bundle(folder: Path) -> str:
    """The networks of the recipe puppets with random weights."""
    torch.manual_seed(0)
    recipe = load_recipe("puppets")
    model = Speech2Video(recipe, recipe.teach.embedding, EMOTIONS)
    save_bundle(str(folder / "bundle"), model, recipe, "speech2video", {}, {})
    return str(folder / "bundle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="default: random weights of the recipe puppets")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each session")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 3, 4], help="numbers of sessions at a time")
    parser.add_argument("--plain", action="store_true", help="without Ray Serve: uvicorn in this process")
    args = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        bundle = str(Path(args.bundle).resolve()) if args.bundle else random_bundle(Path(folder))
        settings = parse_settings({"bundle": bundle, "limits": {"live": max(args.sessions)}})
        rows = []
        service = Service(settings, LocalBundles(settings))
        with listening(create_app(service)) if args.plain else local_endpoint(settings, "127.0.0.1", port) as address:
            live = address.replace("http", "ws", 1) + "/v1/live"
            asyncio.run(run_session(live, 2.0, 0))
            for count in args.sessions:
                rows.append(measure(live, args.seconds, count))
                print("; ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
                if args.json:
                    write_result(args.json, rows)


if __name__ == "__main__":
    main()
