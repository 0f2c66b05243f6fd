"""Replicas of an endpoint are killed under load: no request of a caller who asks again is lost.

    python -m tests.faults.replica_killed --bundle runs/generator/bundle [--kills 5] [--callers 8]

Two replicas draw for callers who ask without a pause. Every few seconds one of them gets SIGKILL; whoever it drew for
hears 500 or 503, or finds the connection cut, and asks again, as the page does and as any client of HTTP should. Exit
status 1 where a request stays without its video, or where a caller who was not with the killed replica is refused with
anything but 429 or 503.
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

AGAIN = {429, 500, 502, 503, 504}
PAUSE_SECONDS, ATTEMPTS = 0.5, 60
COMEBACK_SECONDS = 90.0


def ask(address: str, sound: bytes, met: Counter[str]) -> bool:
    """Asks until the video is there; what was met on the way is counted."""
    for attempt in range(ATTEMPTS):
        try:
            answer = requests.post(f"{address}/v1/videos", files={"speech": sound}, timeout=120)
        except requests.RequestException as e:
            met[type(e).__name__] += 1
        else:
            if answer.status_code == 200 and answer.content[4:8] == b"ftyp":
                met["at once" if attempt == 0 else "asked again"] += 1
                return True
            met[str(answer.status_code)] += 1
            if answer.status_code not in AGAIN:
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
                if not ask(address, sound, met):
                    lost.append(time.monotonic())

        callers = [threading.Thread(target=call) for _ in range(args.callers)]
        for caller in callers:
            caller.start()
        for _ in range(args.kills):
            time.sleep(args.every)
            until = time.monotonic() + COMEBACK_SECONDS
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
    broken = {k: n for k, n in met.items() if k not in ("at once", "asked again", "429", "503")}
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
