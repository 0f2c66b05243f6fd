"""Dashboards and alerting rules, run by a real Prometheus where it is installed (Debian's package prometheus)."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI, Response

from s2v_ray.cluster.dashboards import DASHBOARDS, write_dashboards
from s2v_ray.serving import ray_metrics as serve_metrics
from s2v_ray.serving.metrics import Metrics
from s2v_ray.training import ray_metrics
from tests.helpers.servers import free_port, listening

ROOT = Path(__file__).parents[2]
RULES = ROOT / "cluster" / "prometheus" / "alerts.yaml"
RAY = ("node_cpu_utilization", "node_mem_used", "node_mem_total", "node_gpus_utilization")
RAY += ("object_store_memory", "object_store_available_memory")

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")), reason="needs Debian's package prometheus"
)


class TextGauge:
    """A gauge of Ray as Ray's endpoint writes it."""

    lines: list[str] = []

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name = name

    suffix = ""

    def set(self, value: float, tags: dict[str, str]) -> None:
        labels = ",".join(f'{key}="{text}"' for key, text in tags.items())
        self.lines.append(f"ray_{self.name}{self.suffix}{{{labels}}} {float(value)}")


class TextReplicaGauge(TextGauge):
    """A gauge of Ray Serve, which adds the tags of the replica."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        super().set(value, tags | {"application": "s2v", "deployment": "Endpoint", "replica": "a"})


class TextReplicaCounter(TextReplicaGauge):
    """A counter of Ray Serve. Its values are added once."""

    suffix = "_total"
    inc = TextReplicaGauge.set


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """A Prometheus that scrapes ``target`` every second; gives its address."""
    config = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target.removeprefix("http://")]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    process = subprocess.Popen(
        ["prometheus", *options, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL, cwd=folder
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait()


def ask(address: str, query: str) -> list[object]:
    """The result of a query; [] while Prometheus does not answer."""
    try:
        with urllib.request.urlopen(f"{address}/api/v1/query?query={urllib.parse.quote(query)}") as response:
            result: list[object] = json.load(response)["data"]["result"]
            return result
    except urllib.error.HTTPError as e:
        if e.code == 503:  # it starts
            return []
        raise AssertionError(f"{query}: {e.read().decode()}") from e
    except OSError:
        return []


def queries() -> list[str]:
    return [query for dashboard in DASHBOARDS for panel in dashboard.panels for query in panel.queries]


def test_the_files_are_what_the_package_writes(tmp_path: Path) -> None:
    write_dashboards(tmp_path)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert written == {file.name: file.read_text() for file in (ROOT / "cluster" / "grafana").iterdir()}


def test_panels_do_not_overlap() -> None:
    for dashboard in DASHBOARDS:
        shown = dashboard.to_grafana()
        places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in shown["panels"]]
        assert len(set(places)) == len(places) == len({p["id"] for p in shown["panels"]})
        assert {v["name"] for v in shown["templating"]["list"]} == {"source", dashboard.variable} - {""}


@needs_prometheus
def test_the_alerting_rules(tmp_path: Path) -> None:
    tests = (Path(__file__).parent / "alerts.yaml").read_text().replace("RULES", str(RULES))
    (tmp_path / "tests.yaml").write_text(tests)
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "tests.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"alertname: {name}" in tests for name in _alerts()), "an alert without a test"


@needs_prometheus
def test_every_query_of_a_dashboard_has_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_metrics, "Gauge", TextGauge)
    monkeypatch.setattr(TextGauge, "lines", [f"ray_{name} 50.0" for name in RAY])
    logger = ray_metrics.RayMetricsLogger("s3://b/run", 0)
    logger.record({"step": 5, "loss": 1.0, "clips_per_second": 3.0, "data_wait": 0.1, "seconds_left": 60.0})
    logger.record({"step": 5, "val_psnr": 21.0})
    logger.record({"step": 9, "clips_per_second": 3.0, "alarms": ["sync"]})
    _fill_endpoint(monkeypatch)
    last = {line.rpartition(" ")[0]: line for line in TextGauge.lines}
    app = FastAPI()
    app.get("/metrics")(lambda: Response("\n".join(last.values()) + "\n", media_type="text/plain"))
    waiting = {query.replace("$run", ".*").replace("$application", ".*") for query in queries()}
    with listening(app) as target, prometheus(target, tmp_path) as address:
        until = time.monotonic() + 60
        while waiting and time.monotonic() < until:
            time.sleep(0.5)
            waiting -= {query for query in waiting if ask(address, query)}
    assert not waiting, "queries without data"


def _fill_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica exports after two requests."""
    monkeypatch.setattr(serve_metrics, "Gauge", TextReplicaGauge)
    monkeypatch.setattr(serve_metrics, "Counter", TextReplicaCounter)
    metrics = Metrics()
    metrics.requests.labels("/v1/videos/sync", "200").inc()
    metrics.refused.labels("busy").inc()
    metrics.seconds.labels("/v1/videos/sync").observe(2.0)
    metrics.first_byte.observe(0.5)
    metrics.frames.labels("default").inc(25)
    metrics.frame_seconds.labels("default").observe(0.01)
    metrics.failed.labels("default").inc()
    metrics.live_skipped.inc()
    serve_metrics.RayMetrics(metrics.registry).copy()


def _alerts() -> list[str]:
    return [line.split(": ")[1] for line in RULES.read_text().splitlines() if "- alert:" in line]
