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

DASHBOARDS = (TRAINING,)


def write_dashboards(folder: Path) -> None:
    """Write every dashboard to a JSON file in ``folder``."""
    for dashboard in DASHBOARDS:
        (folder / f"{dashboard.name}.json").write_text(json.dumps(dashboard.to_grafana(), indent=1) + "\n")


if __name__ == "__main__":
    write_dashboards(Path(sys.argv[1]))
