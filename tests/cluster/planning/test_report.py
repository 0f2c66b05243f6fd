from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from s2v_ray import cli, storage
from s2v_ray.cluster.planning import Measurement, Price, format_plan, make_plan, plot_plan
from s2v_ray.shards import CORPUS_SCHEMA
from tests.helpers.plans import inputs

ROOT = Path(__file__).parents[3]


def test_a_plan_has_a_row_per_number_of_workers_and_a_projection() -> None:
    plan = make_plan(inputs(), [1, 8], 1e6)
    assert [row.workers for row in plan.rows] == [1, 8]
    assert plan.projection.row.workers == 8
    assert set(plan.to_dict()) == {
        "recipe",
        "measured",
        "corpus",
        "engines",
        "memory",
        "rows",
        "projection",
        "assumptions",
        "warnings",
    }
    text = format_plan(plan)
    assert text.splitlines()[0].split() == [
        *("workers", "nodes", "clips/s", "bottleneck", "all-reduce", "GiB/rank", "checkpoint"),
        *("save", "every", "overhead", "hours", "cost", "$"),
    ]
    assert "1,000,000 hours of video, seen once by 8 workers on 2 nodes" in text
    assert all(f"note: {w}" in text for w in plan.warnings)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"measured": Measurement(80.0, 8, gpu=False)}, "the measured run had gpu=False"),
        ({"measured": Measurement(80.0, 8, gpu=True)}, "decoding was not measured"),
        ({"measured": Measurement(80.0, 8, gpu=True)}, "activations come on top"),
        ({"price": Price(2.0, 1e6, 1e9)}, r"does not fit into a GPU of 0.0 GiB at \[1, 8\] workers"),
    ],
)
def test_warnings(changes: dict[str, object], warning: str) -> None:
    plan = make_plan(inputs(**changes), [1, 8], 1e6)
    assert any(re.search(warning, w) for w in plan.warnings)


def test_a_complete_measurement_has_no_warnings() -> None:
    complete = Measurement(80.0, 8, gpu=True, decode_clips_per_cpu_second=5.0, peak_bytes=1e9)
    assert make_plan(inputs(measured=complete), [1, 8], 1e6).warnings == []


def test_the_plot_shows_every_number_of_workers() -> None:
    plan = make_plan(inputs(), [1, 8, 1024], 1e6)
    svg = plot_plan(plan).decode()
    assert "<svg" in svg
    assert all(f">{text}<" in svg for text in ("1", "8", "1024", "workers", "clips/s", "perfect scaling"))
    assert plot_plan(plan).decode() == svg
    stopped = replace(plan, rows=[replace(row, clips_per_second=0.0) for row in plan.rows])
    assert "<svg" in plot_plan(stopped).decode()


def test_the_whole_plan_of_the_recipe_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command, with the shipped manifest and prices; the parameters are those of the real modules."""
    corpus = tmp_path / "corpus"
    storage.write_manifest(
        str(corpus), "corpus", CORPUS_SCHEMA, splits={"train": {"clips": 10, "frames": 750, "shards": 1}}
    )
    storage.write_bytes(str(corpus / "train" / "part-00000.parquet"), b"x" * 5_000_000)
    (tmp_path / "m.yaml").write_text("{clips_per_second: 100, workers: 8, gpu: true}")
    where = [
        "--corpus",
        str(corpus),
        "--cluster",
        str(ROOT / "cluster" / "aws.yaml"),
        "--measured",
        str(tmp_path / "m.yaml"),
    ]
    assert (
        cli.main(
            [
                "plan",
                *where,
                "--workers",
                "8",
                "--workers",
                "1024",
                "--plot",
                str(tmp_path / "p.svg"),
                "--json",
                str(tmp_path / "p.json"),
            ]
        )
        == 0
    )
    result = json.loads((tmp_path / "p.json").read_text())["result"]
    assert [r["workers"] for r in result["rows"]] == [8, 1024] and [r["nodes"] for r in result["rows"]] == [2, 256]
    here = {"states_on_cpu": False, "weights_on_cpu": False}
    assert result["engines"]["generator"] == {
        "trained": 14_172_811,
        "frozen": 4_402_038,
        "stage": 2,
        "averaged": True,
        **here,
    }
    assert result["engines"]["discriminators"]["trained"] == 8_590_795
    text = capsys.readouterr().out
    assert "1,000,000 hours of video" in text and "assumed:" in text and "prices of 2026-11-22" in text
    assert (tmp_path / "p.svg").read_text().count("<svg") == 1
