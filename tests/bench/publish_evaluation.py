"""Results of an evaluation as the data files of the pages: all rows, a summary, and the bars.

    python -m tests.bench.publish_evaluation REPORT NAME --title "GRID at 96 x 96" --command "s2v evaluate ..."

Reads REPORT/results.json and writes docs/results/NAME.json, NAME-summary.json and NAME-bars.json, with the current
commit, the machine and the date; then run `python docs/render.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2v_ray import storage
from s2v_ray.evaluation.report import rows_of
from s2v_ray.evaluation.results import IntervalResult, MetricResult, Results, check_schema
from s2v_ray.evaluation.rows import (
    MEAN_FRAME,
    OTHER_TAKE,
    REAL,
    REFERENCE,
    REFERENCE_OTHER,
    SPEECH,
    SPEECH_TAKE,
    STILL,
)
from tests.helpers.results import ROOT, commit, machine

COLUMNS = (
    "psnr", "ssim", "error_mouth", "ssim_mouth", "movement_mouth", "aperture_correlation", "landmark_distance", "cpbd",
    "csim", "gmsd", "sync_confidence", "kid_emotion", "kid_identity", "variance", "blinks",
)  # fmt: skip
SUMMARY = ("psnr", "ssim", "error_mouth", "movement_mouth", "aperture_correlation", "cpbd", "csim")
SUMMARY_ROWS = (REAL, OTHER_TAKE, STILL, MEAN_FRAME, REFERENCE, REFERENCE_OTHER, SPEECH, SPEECH_TAKE)
ARROWS = {"higher": "↑", "lower": "↓", "one": "→1", "real": "→real"}


def cell(value: IntervalResult | None, metric: MetricResult, *, interval: bool) -> str:
    """Mean, and half of the interval if it is wanted."""
    if value is None or value["mean"] is None or value["low"] is None or value["high"] is None:
        return ""
    mean = f"{value['mean']:.{metric['digits']}f}"
    return f"{mean} ± {(value['high'] - value['low']) / 2:.{metric['digits']}f}" if interval else mean


def table(results: Results, rows: Sequence[str], names: Sequence[str], *, interval: bool) -> dict[str, Any]:
    """Columns and rows of a table of metrics."""
    metrics = {name: results["metrics"][name] for name in names if name in results["metrics"]}
    found = {row: results["rows"][row]["values"] for row in rows if row in results["rows"]}
    return {
        "columns": ["row", *(f"{m['name']} {ARROWS[m['better']]}" for m in metrics.values())],
        "rows": [
            [row, *(cell(values.get(name), m, interval=interval) for name, m in metrics.items())]
            for row, values in found.items()
        ],
    }


def bars(results: Results) -> dict[str, Any]:
    """Columns and rows of the table of bars."""
    lines = []
    for bar in results["bars"]:
        low, high = bar["at_least"], bar["at_most"]
        if low is not None and high is not None:
            limits = f"{low:.3g} to {high:.3g}"
        else:
            limits = f"at least {low:.3g}" if low is not None else f"at most {high:.3g}" if high is not None else ""
        measured = "" if bar["value"] is None else f"{bar['value']:.3g}"
        lines.append([bar["what"], limits, measured, {True: "met", False: "missed", None: "no limit"}[bar["met"]]])
    return {"columns": ["figure", "bar", "measured", "outcome"], "rows": lines}


def write(path: Path, content: dict[str, Any]) -> None:
    """JSON with one line for each row, so that changes can be read."""
    head = {key: value for key, value in content.items() if key != "rows"}
    entries = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()]
    rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in content["rows"])
    path.write_text("{\n" + ",\n".join([*entries, f' "rows": [\n{rows}\n ]']) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report")
    parser.add_argument("name")
    parser.add_argument("--title", required=True, help="what was evaluated")
    parser.add_argument("--command", required=True, help="with which it is evaluated again")
    parser.add_argument("--commit", default=commit())
    options = parser.parse_args()
    results = check_schema(storage.read_json(storage.join(options.report, "results.json")))
    made = {
        "command": options.command,
        "commit": options.commit,
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    speakers = results["speakers"]
    clips = f"{results['clips']} clips of {speakers} speaker{'s' if speakers > 1 else ''}"
    everything = table(results, rows_of(results), COLUMNS, interval=True)
    summary = table(results, SUMMARY_ROWS, SUMMARY, interval=False)
    folder = ROOT / "docs" / "results"
    title = f"{options.title}, {clips}"
    write(folder / f"{options.name}.json", {"title": f"{title}, mean ± half of the 95% interval", **made, **everything})
    write(folder / f"{options.name}-summary.json", {"title": title, **made, **summary})
    write(
        folder / f"{options.name}-bars.json",
        {"title": f"{options.title}, figures and their bars", **made, **bars(results)},
    )


if __name__ == "__main__":
    main()
