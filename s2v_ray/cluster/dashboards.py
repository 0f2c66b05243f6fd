"""Grafana dashboards, as files in ``cluster/grafana/``. ``python -m s2v_ray.cluster.dashboards FOLDER`` writes them.

The data source is the Prometheus that scrapes Ray's nodes (``ray_...``), chosen in Grafana by the variable ``source``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
COLUMNS, WIDTH, HEIGHT = 2, 12, 8


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows.
        queries: PromQL -> legend, in which ``{{label}}`` is the value of a label.
        unit: of Grafana: short, percentunit, s, bytes.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"


@dataclass(frozen=True)
class Dashboard:
    """A page of graphs.

    Attributes:
        name: of the file, and part of the title.
        panels: the graphs, from left to right and downwards.
        variable: label by whose values the graphs are filtered, or "".
        metric: metric that has the label.
    """

    name: str
    panels: Sequence[Panel]
    variable: str = ""
    metric: str = ""

    def to_grafana(self) -> dict[str, Any]:
        """The dashboard as Grafana imports it (schema 39, Grafana 10 and later)."""
        variables: list[dict[str, Any]] = [{"name": "source", "type": "datasource", "query": "prometheus"}]
        if self.variable:
            query = f"label_values({self.metric}, {self.variable})"
            variables.append(
                {
                    "name": self.variable,
                    "type": "query",
                    "datasource": SOURCE,
                    "query": query,
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                }
            )
        return {
            "uid": f"s2v-{self.name}",
            "title": f"s2v_ray: {self.name}",
            "schemaVersion": 39,
            "refresh": "30s",
            "time": {"from": "now-6h", "to": "now"},
            "templating": {"list": variables},
            "panels": [_panel(i, panel) for i, panel in enumerate(self.panels)],
        }


def _panel(index: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(index, COLUMNS)
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": query, "legendFormat": legend, "datasource": SOURCE}
            for i, (query, legend) in enumerate(panel.queries.items())
        ],
    }


RUN = '{run=~"$run"}'
TRAINING = Dashboard(
    "training",
    (
        Panel("Steps", {f"max by (run) (ray_s2v_training_step{RUN})": "{{run}}"}),
        Panel("Time left", {f"max by (run) (ray_s2v_training_seconds_left{RUN})": "{{run}}"}, "s"),
        Panel("Clips per second", {f"max by (run) (ray_s2v_training_clips_per_second{RUN})": "{{run}}"}),
        Panel("Waiting for data", {f"max by (run) (ray_s2v_training_data_wait{RUN})": "{{run}}"}, "percentunit"),
        Panel("Losses", {f"max by (run, name) (ray_s2v_training_scalar{RUN})": "{{run}} {{name}}"}),
        Panel("Validation", {f"max by (run, name) (ray_s2v_training_validation{RUN})": "{{run}} {{name}}"}),
        Panel("Alarms", {f"max by (run, name) (ray_s2v_training_alarm{RUN})": "{{run}} {{name}}"}),
        Panel(
            "Nodes: CPU and memory",
            {
                "avg(ray_node_cpu_utilization) / 100": "CPU",
                "sum(ray_node_mem_used) / sum(ray_node_mem_total)": "memory",
            },
            "percentunit",
        ),
        Panel("Nodes: GPU", {"avg(ray_node_gpus_utilization) / 100": "GPU"}, "percentunit"),
        Panel(
            "Object store",
            {"sum(ray_object_store_memory)": "objects", "sum(ray_object_store_available_memory)": "available"},
            "bytes",
        ),
    ),
    "run",
    "ray_s2v_training_step",
)

APPLICATION = '{application=~"$application"}'


def _quantile(share: float, histogram: str, *labels: str) -> str:
    """PromQL of a quantile over five minutes of a histogram of ``serving.ray_metrics``, by ``labels``."""
    rate = f"rate(ray_{histogram}_bucket_total{APPLICATION}[5m])"
    return f"histogram_quantile({share}, sum by ({', '.join(('le', *labels))}) ({rate}))"


ENDPOINT = Dashboard(
    "endpoint",
    (
        Panel(
            "Requests per second",
            {f"sum by (status) (rate(ray_s2v_requests_total{APPLICATION}[5m]))": "{{status}}"},
        ),
        Panel(
            "Error responses per second", {f"sum by (code) (rate(ray_s2v_refused_total{APPLICATION}[5m]))": "{{code}}"}
        ),
        Panel(
            "Seconds to the last byte",
            {_quantile(share, "s2v_request_seconds"): f"{share:.0%} of the requests" for share in (0.5, 0.95)},
            "s",
        ),
        Panel(
            "Seconds to the first byte of video",
            {_quantile(share, "s2v_first_byte_seconds"): f"{share:.0%} of the requests" for share in (0.5, 0.95)},
            "s",
        ),
        Panel("Frames per second", {f"sum by (model) (rate(ray_s2v_frames_total{APPLICATION}[5m]))": "{{model}}"}),
        Panel(
            "Seconds per frame, 95% of the videos", {_quantile(0.95, "s2v_frame_seconds", "model"): "{{model}}"}, "s"
        ),
        Panel(
            "Failed videos per second", {f"sum by (model) (rate(ray_s2v_failed_total{APPLICATION}[5m]))": "{{model}}"}
        ),
        Panel(
            "Open requests and videos",
            {
                f"sum(ray_s2v_sync{APPLICATION})": "requests for videos",
                f"sum(ray_s2v_videos{APPLICATION})": "queued or in progress",
            },
        ),
        Panel(
            "Live sessions",
            {f"sum(ray_s2v_live_sessions{APPLICATION})": "open", f"sum(ray_s2v_live_limit{APPLICATION})": "limit"},
        ),
        Panel(
            "Live: frames skipped per second",
            {f"sum(rate(ray_s2v_live_skipped_frames_total{APPLICATION}[5m]))": "frames"},
        ),
    ),
    "application",
    "ray_s2v_requests_total",
)

DASHBOARDS = (TRAINING, ENDPOINT)


def write_dashboards(folder: Path) -> None:
    """Write every dashboard to a JSON file in ``folder``."""
    for dashboard in DASHBOARDS:
        (folder / f"{dashboard.name}.json").write_text(json.dumps(dashboard.to_grafana(), indent=1) + "\n")


if __name__ == "__main__":
    write_dashboards(Path(sys.argv[1]))
