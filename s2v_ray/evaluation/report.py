"""Pictures, video, page and table from the results and examples that ``evaluate`` left."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from s2v_ray import storage
from s2v_ray.evaluation import pictures
from s2v_ray.media.video import SYNTHETIC, write_mp4
from s2v_ray.metrics import METRICS, Metric

Results = dict[str, Any]
SHOWN_ROWS = ("real clips", "reference baseline", "speech only")
TERMINAL_METRICS = (
    "psnr",
    "ssim",
    "error_mouth",
    "ssim_mouth",
    "movement_mouth",
    "cpbd",
    "csim",
    "emotion",
    "mouth_correlation",
    "lse_c",
    "lse_d",
)
"""The metrics whose columns fit a terminal; the report has all."""
NO_CURVES = {"step", "clips_per_second", "data_wait", "seconds_left"}
"""What a run records of its progress, not of its learning."""


def write_report(out_uri: str, results: Results) -> dict[str, str]:
    """Writes OUT/report.html (self-contained), contact.png, emotions.png and sample.mp4, from ``results`` and OUT/examples.npz.

    Returns:
        name -> URI of what was written: ``report``, ``contact``, ``emotions`` (where the bundle has several), ``sample``, and ``results``.

    Raises:
        ArtifactError: OUT holds no examples of an evaluation.
    """
    index, arrays = _read_examples(out_uri)
    found = {"results": storage.join(out_uri, "results.json")}

    def write(name: str, file: str, data: bytes) -> None:
        found[name] = storage.join(out_uri, file)
        storage.write_bytes(found[name], data)

    rows = dict(_shown(results, row) for row in SHOWN_ROWS)
    images = {
        "contact": pictures.contact_sheet(
            [{label: arrays[clip["rows"][row]] for label, row in rows.items()} for clip in index["clips"]]
        )
    }
    if index["emotions"]:
        images["emotions"] = pictures.contact_sheet(
            [{e: arrays[key] for e, key in clip["rows"].items()} for clip in index["emotions"][:2]], frames=5
        )
    encoded = {name: pictures.to_png(image) for name, image in images.items()}
    for name, data in encoded.items():
        write(name, f"{name}.png", data)
    first = index["clips"][0]
    write(
        "sample",
        "sample.mp4",
        _sample({label: arrays[first["rows"][row]] for label, row in rows.items()}, arrays[first["speech"]]),
    )
    curves = [
        pictures.curve_svg(name, steps, values) for name, (steps, values) in _loss_curves(results["bundle"]).items()
    ]
    write("report", "report.html", _page(results, encoded, curves).encode())
    return found


def format_table(results: Results) -> str:
    """The rows, the student's figures and the bars, for the terminal."""
    shown = [
        m
        for m in TERMINAL_METRICS
        if any(row["values"].get(m, {}).get("mean") is not None for row in results["rows"].values())
    ]
    marks = {row: "*" if found["note"] else "" for row, found in results["rows"].items()}
    lines = [["", *(f"{METRICS[m].name} {METRICS[m].arrow}" for m in shown)]]
    lines += [
        [row + marks[row], *(_short(found["values"].get(m), METRICS[m]) for m in shown)]
        for row, found in results["rows"].items()
    ]
    text = [
        f"{results['clips']} clips of the split {results['split']}, {results['speakers']} speakers; mean ± half of the 95% interval",
        _columns(lines),
    ]
    text += [f"* {row['note']}" for row in results["rows"].values() if row["note"]]
    text += [f"no judge for {', '.join(results['missing_judges'])} in this corpus"] if results["missing_judges"] else []
    bars = [["figure", "value", "bar (puppets)", ""], *(_bar(b) for b in results["bars"])]
    return "\n".join([*text, "", _columns(bars), *results["student"]["notes"]])


def _bar(bar: dict[str, Any]) -> list[str]:
    limit = "–" if bar["bar"] is None else f"{'≥' if bar['at_least'] else '≤'} {bar['bar']:.3g}"
    return [
        bar["what"],
        "–" if bar["value"] is None else f"{bar['value']:.3f}",
        limit,
        {True: "met", False: "missed", None: "does not apply"}[bar["met"]],
    ]


def _short(value: dict[str, Any] | None, metric: Metric) -> str:
    if value is None or value["mean"] is None:
        return "–"
    return f"{value['mean']:.{metric.digits}f} ±{(value['high'] - value['low']) / 2:.{metric.digits}f}"


def _full(value: dict[str, Any] | None, metric: Metric) -> str:
    if value is None or value["mean"] is None:
        return "–"
    mean, low, high = (f"{value[k]:.{metric.digits}f}" for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _page(results: Results, images: dict[str, bytes], curves: list[str]) -> str:
    source = resources.files("s2v_ray.evaluation") / "templates" / "report.html"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    full: Callable[[dict[str, Any] | None, Metric], str] = _full
    return environment.from_string(source.read_text()).render(
        r=results,
        metrics={
            m: metric
            for m, metric in METRICS.items()
            if any(row["values"].get(m, {}).get("mean") is not None for row in results["rows"].values())
        },
        full=full,
        bars=[_bar(b) for b in results["bars"]],
        images={name: base64.b64encode(data).decode() for name, data in images.items()},
        curves=curves,
    )


def _sample(rows: dict[str, np.ndarray], speech: np.ndarray) -> bytes:
    """The rows of one clip side by side, playable, with sound."""
    with tempfile.TemporaryDirectory(prefix="s2v-") as folder:
        path = Path(folder) / "sample.mp4"
        write_mp4(str(path), pictures.side_by_side(rows), speech, metadata=SYNTHETIC)
        return path.read_bytes()


def _shown(results: Results, row: str) -> tuple[str, str]:
    """Label of a row, and the row whose frames it shows: the seen identity's where that stands for the reference baseline."""
    return ("reference: seen identity", "seen identity") if results["rows"][row]["note"] else (row, row)


def _read_examples(out_uri: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(
            io.BytesIO(storage.read_bytes(storage.join(out_uri, "examples.npz"))), allow_pickle=False
        ) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except FileNotFoundError:
        raise storage.ArtifactError(f"there is no evaluation at {out_uri}: run `s2v evaluate` first") from None
    return json.loads(str(arrays.pop("index"))), arrays


def _loss_curves(bundle_uri: str) -> dict[str, tuple[list[float], list[float]]]:
    """Name -> steps and values, from the metrics.jsonl of the run that the bundle lies in; empty where there is none."""
    run = bundle_uri.rstrip("/").rpartition("/")[0]
    try:
        lines = storage.read_bytes(storage.join(run, "metrics.jsonl")).decode().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in filter(None, lines):
        record = json.loads(line)
        for name, value in record.items():
            if "step" in record and name not in NO_CURVES and isinstance(value, int | float) and np.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(float(record["step"]))
                values.append(float(value))
    return {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
