"""Writes the report of an evaluation (page, images, video) and formats its table for the terminal."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np

from s2v_ray import storage
from s2v_ray.evaluation import pictures, plots
from s2v_ray.evaluation.examples import Examples, read_examples
from s2v_ray.evaluation.player import PlayedClip, player
from s2v_ray.evaluation.results import BarResult, DifferenceResult, IntervalResult, MetricResult, Results, check_schema
from s2v_ray.evaluation.rows import REAL, ROWS, SHOWN_ROWS
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.metrics import Metric
from s2v_ray.metrics.clip_metrics import METRICS

NOT_PLOTTED = {"step", "clips_per_second", "data_wait", "seconds_left"}
"""Keys of ``metrics.jsonl`` that are about the progress of a run."""
PLAYED_CLIPS = 6
"""Examples that can be played on the page. A row of three seconds at 96 pixels has about 50 KB."""
VERDICTS = {True: "met", False: "missed", None: "does not apply"}


def write_report(out_uri: str, results: Results) -> dict[str, str]:
    """Writes OUT/report.html (self-contained), contact.png, emotions.png and sample.mp4.

    Args:
        out_uri: folder of the evaluation, with ``examples.npz``.
        results: results of that evaluation.

    Returns:
        Name -> URI of the files: ``results``, ``report``, ``contact``, ``sample``, and ``emotions`` if the bundle has
        several emotions.

    Raises:
        ArtifactError: there is no evaluation at ``out_uri``, or another version made the results.
    """
    check_schema(results)
    examples = read_examples(out_uri)
    rows = shown_rows(examples)
    images = _images(examples, rows)
    curves = [plots.training_curve(name, *curve) for name, curve in _training_curves(results["bundle"]).items()]
    first = examples.clips[0]
    files = {f"{name}.png": data for name, data in images.items()}
    files["sample.mp4"] = _video({label: first.rows[row] for label, row in rows.items()}, first.speech)
    files["report.html"] = _page(results, images, curves, player(_played(examples, rows))).encode()
    found = {"results": storage.join(out_uri, "results.json")}
    for file, data in files.items():
        name = file.partition(".")[0]
        found[name] = storage.join(out_uri, file)
        storage.write_bytes(found[name], data)
    return found


def format_table(results: Results) -> str:
    """Formats the rows, the comparisons, the notes and the bars for the terminal.

    Raises:
        ArtifactError: another version made the results.
    """
    check_schema(results)
    metrics = {
        name: metric
        for name, metric in _metrics_with_values(results).items()
        if name not in METRICS or METRICS[name].in_summary
    }
    lines = [["", *(f"{metric.name} {metric.arrow}" for metric in metrics.values())]]
    for row in rows_of(results):
        found = results["rows"][row]
        cells = [_format_short(found["values"].get(name), metric) for name, metric in metrics.items()]
        lines.append([row + ("*" if found["note"] else ""), *cells])
    text = [
        f"{results['clips']} clips of the split {results['split']}, {results['speakers']} speakers; "
        "mean ± half of the 95% interval",
        _align(lines),
    ]
    text += [f"* {note}" for note in dict.fromkeys(row["note"] for row in results["rows"].values()) if note]
    text += [f"no row {row}: {reason}" for row, reason in results["missing_rows"].items()]
    if results["missing_judges"]:
        text.append(f"no judge for {', '.join(results['missing_judges'])}")
    text += results["notes"]
    for table in (_difference_lines(results), _set_lines(results)):
        text += ["", _align(table)] if len(table) > 1 else []
    bars = [["figure", "value", f"bar ({results['protocol']})", ""], *(_format_bar(bar) for bar in results["bars"])]
    return "\n".join([*text, "", _align(bars), *results["student"]["notes"]])


def rows_of(results: Results) -> list[str]:
    """Rows of the results in the order of tables; results that were read from JSON are sorted by name."""
    return [row for row in ROWS if row in results["rows"]]


def shown_rows(examples: Examples) -> dict[str, str]:
    """Label -> row, for the rows that all examples have."""
    return {label: row for row, label in SHOWN_ROWS.items() if all(row in clip.rows for clip in examples.clips)}


def _metrics_with_values(results: Results) -> dict[str, Metric]:
    """Metrics that have a value in any row, in the order of the table; results that were read from JSON are sorted."""

    def has_value(name: str) -> bool:
        values = (row["values"].get(name) for row in results["rows"].values())
        return any(value is not None and value["mean"] is not None for value in values)

    names = [
        *(name for name in METRICS if name in results["metrics"]),
        *sorted(name for name in results["metrics"] if name not in METRICS),
    ]
    return {name: _metric(results["metrics"][name]) for name in names if has_value(name)}


def _metric(found: MetricResult) -> Metric:
    return Metric(found["name"], found["better"], found["unit"], found["digits"], found["about"])


def _images(examples: Examples, rows: Mapping[str, str]) -> dict[str, bytes]:
    """Name -> PNG."""
    clips = [{label: clip.rows[row] for label, row in rows.items()} for clip in examples.clips]
    sheets = {"contact": pictures.contact_sheet(clips)}
    if examples.emotions:
        sheets["emotions"] = pictures.contact_sheet(examples.emotions[:2], frames=5)
    return {name: pictures.to_png(image) for name, image in sheets.items()}


def _difference_lines(results: Results) -> list[list[str]]:
    """Table of the paired differences."""
    lines = [["paired difference (positive is better)", "metric", "mean", "95% interval", "margin", ""]]
    return [*lines, *(_format_difference(found, results["metrics"]) for found in results["differences"])]


def _format_difference(found: DifferenceResult, metrics: Mapping[str, MetricResult]) -> list[str]:
    metric = metrics[found["metric"]]
    mean, low, high, margin = (_number(found[key], metric["digits"]) for key in ("mean", "low", "high", "margin"))
    verdict = {True: "not inferior", False: "inferior or unclear", None: ""}[found["not_inferior"]]
    how = f"{found['speakers']} speakers resampled" if found["resampled"] == "speakers" else "clips resampled"
    name = f"{metric['name']} ({metric['unit']})" if metric["unit"] else metric["name"]
    return [f"{found['row']} - {found['base']}", name, mean, f"{low} to {high} ({how})", margin, verdict]


def _set_lines(results: Results) -> list[list[str]]:
    """Table of two-sample tests, diversity and forced emotions."""
    lines = [["figure of all clips", "value", "95% interval"]]
    for test in results["two_sample"]:
        name = f"two-sample accuracy (0.5: cannot be told apart): {test['first']} | {test['second']}"
        lines.append([name, f"{test['accuracy']:.3f}", f"{test['low']:.3f} to {test['high']:.3f}"])
    if (diversity := results["diversity"]) is not None:
        ends = f"{_number(diversity['low'], 2)} to {_number(diversity['high'], 2)}"
        name = f"diversity: variance over {results['best_of']} sampled takes / over real takes"
        lines.append([name, _number(diversity["mean"], 2), ends])
    if (confusion := results["confusion"]) is not None:
        name = f"forced emotion shown, by the judge ({confusion['clips']} clips, chance {confusion['chance']:.2f})"
        lines.append([name, f"{confusion['share']:.3f}", ""])
    return lines


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _format_bar(bar: BarResult) -> list[str]:
    limits = [f"{sign} {x:.3g}" for sign, x in (("≥", bar["at_least"]), ("≤", bar["at_most"])) if x is not None]
    return [bar["what"], _number(bar["value"], 3), ", ".join(limits) or "–", VERDICTS[bar["met"]]]


def _format_short(value: IntervalResult | None, metric: Metric) -> str:
    """Mean and half of the interval."""
    if value is None or value["mean"] is None or value["low"] is None or value["high"] is None:
        return "–"
    return f"{value['mean']:.{metric.digits}f} ±{(value['high'] - value['low']) / 2:.{metric.digits}f}"


def _format_full(value: IntervalResult | None, metric: Metric) -> str:
    """Mean and both ends of the interval."""
    if value is None or value["mean"] is None:
        return "–"
    return f"{value['mean']:.{metric.digits}f} [{value['low']:.{metric.digits}f}, {value['high']:.{metric.digits}f}]"


def _align(lines: Sequence[Sequence[str]]) -> str:
    """Formats columns: the first is aligned left, the others right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    formats = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(align(cell, width) for align, cell, width in zip(formats, line, widths, strict=True)).rstrip()
        for line in lines
    )


def _played(examples: Examples, rows: Mapping[str, str]) -> list[PlayedClip]:
    """The first ``PLAYED_CLIPS`` examples, as the page plays them."""
    return [
        PlayedClip(f"{number}: {clip.label}", {label: clip.rows[row] for label, row in rows.items()}, clip.speech)
        for number, clip in enumerate(examples.clips[:PLAYED_CLIPS], 1)
    ]


def _page(results: Results, images: Mapping[str, bytes], curves: Sequence[str], played: str) -> str:
    source = resources.files("s2v_ray.evaluation") / "templates" / "report.html"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source.read_text()).render(
        r=results,
        metrics=_metrics_with_values(results),
        real=REAL,
        rows={row: results["rows"][row] for row in rows_of(results)},
        format_full=_format_full,
        differences=_difference_lines(results),
        figures=_set_lines(results),
        bars=[_format_bar(bar) for bar in results["bars"]],
        images={name: base64.b64encode(data).decode() for name, data in images.items()},
        curves=curves,
        player=played,
    )


def _video(rows: Mapping[str, np.ndarray], speech: np.ndarray) -> bytes:
    """The rows of one clip side by side with their speech, as MP4."""
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
        path = Path(folder) / "sample.mp4"
        write_mp4(path, pictures.side_by_side(rows), speech, metadata=SYNTHETIC)
        return path.read_bytes()


def _training_curves(bundle_uri: str) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> steps and values, from ``metrics.jsonl`` of the run that contains the bundle; empty without a run."""
    run = bundle_uri.rstrip("/").rpartition("/")[0]
    try:
        lines = storage.read_bytes(storage.join(run, "metrics.jsonl")).decode().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for record in (json.loads(line) for line in lines if line):
        if "step" not in record:
            continue
        for name, value in record.items():
            if name not in NOT_PLOTTED and isinstance(value, int | float) and np.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(float(record["step"]))
                values.append(float(value))
    return {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
