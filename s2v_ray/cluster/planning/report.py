"""A plan at several numbers of workers, as JSON, text and plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s2v_ray.cluster.planning.cost import Estimate, Projection, estimate, project
from s2v_ray.cluster.planning.inputs import GIB, CorpusSize, Measurement, PlanInputs
from s2v_ray.cluster.planning.memory import EngineParameters, memory_per_rank

_COLUMNS = (
    "workers",
    "nodes",
    "clips/s",
    "bottleneck",
    "all-reduce",
    "GiB/rank",
    "checkpoint",
    "save every",
    "overhead",
    "hours",
    "cost $",
)


@dataclass(frozen=True)
class Plan:
    """The result of ``make_plan``.

    Attributes:
        recipe: name of the recipe.
        measured, corpus, engines: what the plan was computed from.
        memory: bytes of a rank by engine and kind, with the recipe's number of workers.
        rows: an estimate per number of workers.
        projection: one pass over a large corpus, with the largest number of workers.
        assumptions: one line each.
        warnings: restrictions of this plan.
    """

    recipe: str
    measured: Measurement
    corpus: CorpusSize
    engines: dict[str, EngineParameters]
    memory: dict[str, dict[str, float]]
    rows: list[Estimate]
    projection: Projection
    assumptions: list[str]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain JSON values."""
        return asdict(self)


def make_plan(inputs: PlanInputs, workers: Sequence[int], hours_of_video: float) -> Plan:
    """Plans the recipe's run with each number of workers, and one pass over ``hours_of_video`` with the largest."""
    recipe = inputs.recipe
    rows = [estimate(inputs, n, recipe.gan.steps * recipe.gan.batch) for n in workers]
    return Plan(
        recipe=recipe.name,
        measured=inputs.measured,
        corpus=inputs.corpus,
        engines=inputs.engines,
        memory={name: memory_per_rank(e, recipe.parallel.workers) for name, e in inputs.engines.items()},
        rows=rows,
        projection=project(inputs, max(workers), hours_of_video),
        assumptions=inputs.assumed.listed(),
        warnings=_warnings(inputs, rows),
    )


def _warnings(inputs: PlanInputs, rows: Sequence[Estimate]) -> list[str]:
    measured, gpu = inputs.measured, inputs.recipe.parallel.gpu
    found = []
    if gpu != measured.gpu:
        found.append(
            f"the recipe has gpu={gpu}, the measured run had gpu={measured.gpu}: the speeds below are not the cluster's"
        )
    if measured.decode_clips_per_cpu_second is None:
        found.append("decoding was not measured (decode_clips_per_cpu_second), and is not among the bottlenecks")
    if measured.peak_bytes is None:
        found.append("memory per rank is that of weights, gradients, optimizer and buckets; activations come on top")
    gpu_bytes = inputs.price.gpu_bytes
    if gpu_bytes and (large := [r.workers for r in rows if r.rank_bytes > gpu_bytes]):
        found.append(f"a rank does not fit into a GPU of {gpu_bytes / GIB:.1f} GiB at {large} workers")
    return found


def format_plan(plan: Plan) -> str:
    """Formats a plan as text."""
    table = [_COLUMNS, *(_cells(row) for row in plan.rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in table]
    p, row = plan.projection, plan.projection.row
    lines += [
        "",
        f"{p.hours_of_video:,.0f} hours of video, seen once by {row.workers} workers on {row.nodes} nodes:",
        f"  {p.clips:,.0f} clips, {p.corpus_bytes / 1e12:,.1f} TB in {p.shards:,} shards; "
        f"{p.requests_per_second:,.0f} S3 requests/s",
        f"  {row.hours:,.1f} hours, $ {row.cost:,.0f}; bottleneck: {row.bottleneck}",
        f"  one simulated run: {p.simulated_hours:,.1f} hours, {p.simulated_losses} lost nodes",
        f"  to start: {p.index_requests:,.0f} S3 requests, {p.index_seconds / 3600:,.1f} hours; "
        f"{p.plan_bytes_per_worker / GIB:,.1f} GiB a worker",
        "",
    ]
    lines += [f"note: {w}" for w in plan.warnings] + ["assumed:"] + [f"  {a}" for a in plan.assumptions]
    return "\n".join(lines)


def _cells(row: Estimate) -> tuple[str, ...]:
    return (
        str(row.workers),
        str(row.nodes),
        f"{row.clips_per_second:.1f}",
        row.bottleneck,
        f"{row.reduce_share:.0%}",
        f"{row.rank_bytes / GIB:.2f}",
        f"{row.checkpoint_bytes / GIB:.1f} GiB",
        "-" if row.interval is None else f"{row.interval / 60:.0f} min",
        f"{row.overhead - 1:.1%}",
        f"{row.hours:.1f}",
        f"{row.cost:.0f}",
    )


def plot_plan(plan: Plan) -> bytes:
    """Plots clips per second over workers, both logarithmic, with perfect scaling of the first row; returns an SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    shown = [row for row in plan.rows if row.clips_per_second > 0]
    workers = [row.workers for row in shown]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "s2v_ray", "font.size": 9}):
        figure = Figure(figsize=(7, 4))
        axes = figure.add_subplot()
        if shown:
            perfect = [shown[0].clips_per_second * n / shown[0].workers for n in workers]
            axes.plot(workers, perfect, color="0.6", linestyle="--", label="perfect scaling")
            axes.plot(workers, [row.clips_per_second for row in shown], marker="o", label="predicted")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(workers, [str(n) for n in workers])
            axes.legend()
        for row in shown:
            label = f"{row.clips_per_second:.0f} {row.bottleneck}"
            axes.annotate(
                label, (row.workers, row.clips_per_second), xytext=(4, -12), textcoords="offset points", fontsize=7
            )
        axes.set_xlabel("workers")
        axes.set_ylabel("clips/s")
        axes.set_title(f"recipe {plan.recipe}")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()
