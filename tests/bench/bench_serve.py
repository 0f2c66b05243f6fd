"""Measures the endpoint on Ray Serve: throughput, time to the first video of a stream, memory, and overload.

    python -m tests.bench.bench_serve --bundle runs/generator/bundle [--json PATH]
        [--parts throughput latency memory overload]

Throughput is compared with direct calls of the predictor. Values are medians over rounds in which both sides take
turns. Starts its own Ray instance.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
import torch

from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.serving.app import local_endpoint
from s2v_ray.serving.settings import parse_settings
from tests.helpers import sounds
from tests.helpers.results import write_result
from tests.helpers.servers import free_port

CALLERS = 16


def wav(seconds: float, seed: int = 0) -> bytes:
    """A WAV file of noise whose loudness rises and falls as that of speech does."""
    return sounds.wav(sounds.speech(seconds, seed))


def post(address: str, sound: bytes, **data: str) -> requests.Response:
    return requests.post(f"{address}/v1/videos/sync", files={"speech": sound}, data=data, timeout=600)


def directly(predictor: Predictor, sounds: list[np.ndarray], batch_frames: int, folder: Path) -> float:
    """Seconds to generate all videos in batches of ``batch_frames`` and to write them as MP4."""
    began = time.perf_counter()
    states = [predictor.begin(GenerationRequest(s)) for s in sounds]
    made: list[list[np.ndarray]] = [[] for _ in states]
    for state in states:
        while not predictor.encode_next_chunk(state):
            pass
    width = max(1, batch_frames // 16)
    for at in range(0, len(states), width):
        group = list(range(at, min(at + width, len(states))))
        while open_ := [i for i in group if states[i].remaining_frames]:
            for i, part in zip(open_, predictor.generate_next([states[i] for i in open_]), strict=True):
                made[i].append(part)
    for i, sound in enumerate(sounds):
        write_mp4(folder / f"{i}.mp4", np.concatenate(made[i]), sound, metadata=SYNTHETIC)
    return time.perf_counter() - began


def throughput(address: str, bundle: str, batch_frames: int, seconds: float, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    predictor = Predictor(bundle)
    uploads = [wav(seconds, i) for i in range(CALLERS)]
    sounds = [np.frombuffer(u[44:], "<i2").astype(np.float32) / 32768 for u in uploads]
    frames = CALLERS * round(25 * seconds)
    ratios, direct, served = [], [], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda u: post(address, u).raise_for_status(), uploads))
        for _ in range(rounds):
            direct.append(directly(predictor, sounds, batch_frames, Path(folder)))
            began = time.perf_counter()
            for answer in pool.map(lambda u: post(address, u), uploads):
                assert answer.status_code == 200, answer.text
            served.append(time.perf_counter() - began)
            ratios.append(direct[-1] / served[-1])
    speeds = {
        "direct frames/s": frames / statistics.median(direct),
        "endpoint frames/s": frames / statistics.median(served),
    }
    return speeds | {"endpoint / direct": statistics.median(ratios), "bar": "at least 0.85", "rounds": rounds}


def first_fragment(address: str, sound: bytes) -> float:
    """Seconds until the first frames can be shown."""
    began = time.perf_counter()
    with requests.post(
        f"{address}/v1/videos/sync", files={"speech": sound}, data={"stream": "true"}, stream=True, timeout=600
    ) as answer:
        got = b""
        for block in answer.iter_content(None):
            got += block
            if b"moof" in got and b"mdat" in got:
                return time.perf_counter() - began
    raise RuntimeError(f"the endpoint sent no video: {answer.status_code} {got[:200]!r}")


def latency(address: str, rounds: int) -> dict[str, Any]:
    short, long = wav(2), wav(60)
    first_fragment(address, short)
    pairs = []
    for _ in range(rounds):
        pairs.append((first_fragment(address, short), first_fragment(address, long)))
        time.sleep(0.5)
    figures = {
        "2 s: first video, s": statistics.median(a for a, _ in pairs),
        "60 s: first video, s": statistics.median(b for _, b in pairs),
    }
    return figures | {"60 s / 2 s": statistics.median(b / a for a, b in pairs), "bar": "at most 1.5", "rounds": rounds}


def replicas() -> list[psutil.Process]:
    """Processes of the endpoint's replicas."""
    return [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica:s2v" in " ".join(p.info["cmdline"] or [])]


def peak(work: Callable[[], object]) -> float:
    """Largest resident memory of a replica while ``work`` runs, MiB."""
    found, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            found.append(max(p.memory_info().rss for p in replicas()) / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(found)


def memory(address: str, long_seconds: float) -> dict[str, Any]:
    def make(seconds: float) -> None:
        answer = post(address, wav(seconds))
        assert answer.status_code == 200, answer.text

    make(10)
    short = peak(lambda: make(10))
    long = peak(lambda: make(long_seconds))
    return {
        "10 s: peak MiB": short,
        f"{long_seconds:g} s: peak MiB": long,
        "long / short": long / short,
        "bar": "at most 1.2",
    }


def overload(address: str, seconds: float, callers: int) -> dict[str, Any]:
    sound, statuses, dropped = wav(3), Counter[str](), Counter[str]()
    without: list[int] = []
    stop = time.monotonic() + seconds

    def call(_: int) -> None:
        while time.monotonic() < stop:
            try:
                answer = post(address, sound)
            except requests.RequestException as e:
                dropped[type(e).__name__] += 1
                continue
            statuses[str(answer.status_code)] += 1
            if answer.status_code in (429, 503):
                if "retry-after" not in answer.headers:
                    without.append(answer.status_code)
                time.sleep(0.2)  # much sooner than Retry-After

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    began = time.perf_counter()
    after = post(address, sound).status_code
    others = sum(n for code, n in statuses.items() if code not in ("200", "429", "503"))
    figures = {
        "callers": callers,
        "statuses": dict(statuses),
        "dropped": sum(dropped.values()),
        "kinds": dict(dropped),
        "other errors": others,
    }
    return figures | {
        "without Retry-After": len(without),
        "after": after,
        "after, s": time.perf_counter() - began,
        "bar": "0 dropped, 0 others",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--parts", nargs="+", default=["throughput", "latency", "memory", "overload"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each speech of throughput")
    parser.add_argument("--long", type=float, default=600.0, help="length of the long speech of memory")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    args = parser.parse_args()
    settings = parse_settings(
        {"bundle": str(Path(args.bundle).resolve()), "limits": {"sync_seconds": 700, "draw_seconds": 1200}}
    )
    port = free_port()
    results: dict[str, Any] = {}
    began = time.perf_counter()
    with local_endpoint(settings, "127.0.0.1", port) as address:
        print(f"up after {time.perf_counter() - began:.0f} s", flush=True)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "throughput": lambda: throughput(
                address, settings.bundle, settings.batch_frames, args.seconds, args.rounds
            ),
            "latency": lambda: latency(address, args.rounds),
            "memory": lambda: memory(address, args.long),
            "overload": lambda: overload(address, args.overload_seconds, 10 * settings.limits.videos),
        }
        for name in args.parts:
            results[name] = parts[name]()
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in results[name].items()}
            print(f"{name:11}", "; ".join(f"{k} {v}" for k, v in shown.items()), flush=True)
            if args.json:
                write_result(args.json, results)


if __name__ == "__main__":
    main()
