"""Rolling upgrades of an endpoint under load: failed requests, and the longest time without a response.

    python -m tests.bench.bench_upgrade FIRST/bundle SECOND/bundle [--upgrades 20] [--callers 16] [--json PATH]

Two replicas on this machine serve callers that send a second of speech each, one after the other. Every upgrade
replaces the bundle by the other one, and the next begins when all replicas serve it.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections import Counter

import requests
from ray import serve

from s2v_ray.serving.app import APPLICATION, app, local_endpoint
from s2v_ray.serving.settings import ServeSettings, parse_settings
from tests.helpers import sounds
from tests.helpers.results import write_result
from tests.helpers.servers import free_port

PAUSE_SECONDS = 2.0
"""Load between two upgrades."""


class Callers:
    """Callers that send requests until they are stopped.

    Attributes:
        times: when each response was complete, in seconds of the monotonic clock.
        outcomes: count of the statuses, and of the exceptions by name.
    """

    def __init__(self, address: str, count: int) -> None:
        self.times: list[float] = []
        self.outcomes: Counter[str] = Counter()
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(count)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, seed: int) -> None:
        sound = sounds.wav(sounds.speech(1.0, seed))
        while not self._stop.is_set():
            try:
                response = requests.post(f"{self._address}/v1/videos/sync", files={"speech": sound}, timeout=120)
                self.outcomes[str(response.status_code)] += 1
            except requests.RequestException as e:
                self.outcomes[type(e).__name__] += 1
            self.times.append(time.monotonic())


def upgrade(settings: ServeSettings, bundle: str) -> float:
    """Seconds until all replicas serve ``bundle``."""
    began = time.monotonic()
    changed = settings.model_copy(update={"bundle": bundle})
    serve.run(app(changed.model_dump(mode="json")), name=APPLICATION, route_prefix="/")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs=2, metavar="BUNDLE")
    parser.add_argument("--upgrades", type=int, default=20)
    parser.add_argument("--callers", type=int, default=16)
    parser.add_argument("--json")
    options = parser.parse_args()
    settings = parse_settings({"bundle": options.bundles[0], "replicas": [2, 2], "cpus": 0.5})
    with local_endpoint(settings, "127.0.0.1", free_port()) as address:
        callers = Callers(address, options.callers)
        callers.start()
        seconds = []
        for n in range(1, options.upgrades + 1):
            time.sleep(PAUSE_SECONDS)
            seconds.append(upgrade(settings, options.bundles[n % 2]))
            print(f"upgrade {n}: {seconds[-1]:.1f} s, {dict(callers.outcomes)}", flush=True)
        time.sleep(PAUSE_SECONDS)
        callers.stop()
    times = sorted(callers.times)
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    found = {
        "upgrades": options.upgrades,
        "responses": len(times),
        "responses that are not 200": len(times) - callers.outcomes["200"],
        "longest time between two responses, s": max(gaps),
        "median time between two responses, s": statistics.median(gaps),
        "median seconds of an upgrade": statistics.median(seconds),
    }
    for name, value in found.items():
        print(f"{name:40}{value:10.3f}")
    if options.json:
        write_result(options.json, found)


if __name__ == "__main__":
    main()
