"""Kills replicas of an endpoint under load: no request of a client that retries is lost.

    python -m tests.faults.replica_killed --bundle runs/generator/bundle [--kills 5] [--callers 8]

Two replicas serve clients that send requests without a pause. Every few seconds one of them gets SIGKILL. Its clients
get 500 or 503, or their connection is closed, and they retry, as the page does and as any client of HTTP should. The
exit status is 1 if a request gets no video, or if a client of the other replica gets an error other than 429 or 503.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import requests

from s2v_ray.serving.app import local_endpoint
from s2v_ray.serving.settings import parse_settings
from tests.bench.bench_serve import replicas, wav

RETRIED = {429, 500, 502, 503, 504}
PAUSE_SECONDS, ATTEMPTS = 0.5, 60
RESTART_SECONDS = 90.0


def request_video(address: str, sound: bytes, met: Counter[str]) -> bool:
    """Sends a request until it gets its video, and counts the outcomes; returns whether it got one."""
    for attempt in range(ATTEMPTS):
        try:
            answer = requests.post(f"{address}/v1/videos/sync", files={"speech": sound}, timeout=120)
        except requests.RequestException as e:
            met[type(e).__name__] += 1
        else:
            if answer.status_code == 200 and answer.content[4:8] == b"ftyp":
                met["first attempt" if attempt == 0 else "after retries"] += 1
                return True
            met[str(answer.status_code)] += 1
            if answer.status_code not in RETRIED:
                return False
        time.sleep(PAUSE_SECONDS)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=12.0, metavar="SECONDS")
    parser.add_argument("--callers", type=int, default=8)
    args = parser.parse_args()
    settings = parse_settings({"bundle": str(Path(args.bundle).resolve()), "replicas": [2, 2]})
    met, lost, killed, stop, sound = Counter[str](), [], 0, threading.Event(), wav(2.0)
    with local_endpoint(settings, "127.0.0.1", 8731) as address:

        def call() -> None:
            while not stop.is_set():
                if not request_video(address, sound, met):
                    lost.append(time.monotonic())

        callers = [threading.Thread(target=call) for _ in range(args.callers)]
        for caller in callers:
            caller.start()
        for _ in range(args.kills):
            time.sleep(args.every)
            until = time.monotonic() + RESTART_SECONDS
            while len(found := replicas()) < 2 and time.monotonic() < until:
                time.sleep(0.5)
            if len(found) > 1:
                os.kill(found[killed % len(found)].pid, signal.SIGKILL)
                killed += 1
                print(f"killed {killed}: so far {dict(met)}", flush=True)
        time.sleep(args.every)
        stop.set()
        for caller in callers:
            caller.join()
        left = len(replicas())
    broken = {k: n for k, n in met.items() if k not in ("first attempt", "after retries", "429", "503")}
    print(
        json.dumps(
            {"replicas killed": killed, "replicas at the end": left, "met": dict(met), "lost": len(lost)}, indent=2
        )
    )
    fine = killed == args.kills and not lost and sum(broken.values()) <= killed * args.callers
    print("nothing was lost" if fine else "FAILED")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
