from __future__ import annotations

import json
from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.evaluation.examples import FILE, read_examples
from s2v_ray.evaluation.report import format_table, shown_rows, write_report
from s2v_ray.evaluation.rows import ROWS
from s2v_ray.media.video import read_video
from tests.helpers.evaluated import (
    FRAMES,
    ExactPredictor,
    evaluate_known,
)


def test_the_report_is_complete(corpus: str, tmp_path: Path) -> None:
    results, examples = evaluate_known(corpus, tmp_path / "run", ExactPredictor())
    (tmp_path / "run").mkdir()
    records = '{"step": 1, "loss/x": 3.0, "note": "a"}\n{"step": 2, "loss/x": 1.5}\n'
    (tmp_path / "run" / "metrics.jsonl").write_text(records)
    out = str(tmp_path / "out")
    with pytest.raises(storage.ArtifactError, match="no evaluation"):
        write_report(out, results)
    storage.write_bytes(storage.join(out, FILE), examples)
    paths = write_report(out, results)
    assert set(paths) == {"results", "report", "contact", "emotions", "sample"}

    page = storage.read_bytes(paths["report"]).decode()
    assert "t&lt;e&gt;st" in page
    assert ">loss/x</text>" in page and "sample.mp4" not in page
    shown = len(shown_rows(read_examples(out)))
    played = len(read_examples(out).clips)
    assert page.count("data:video/mp4;base64,") == shown * min(played, 6) > 6
    assert page.count("data:image/png;base64,") == 2
    with_values = [m for m, found in results["rows"]["speech only"]["values"].items() if found["mean"] is not None]
    assert len(with_values) > 10
    assert all(results["metrics"][m]["name"] in page for m in with_values)
    video = read_video(paths["sample"])
    assert len(video.frames) == FRAMES
    assert video.frames[0].shape[1] > 4 * video.frames[0].shape[0], "six rows are side by side"
    assert "speech only, take given - reference baseline" in page
    assert "two-sample accuracy" in page and "diversity: variance over 2 sampled takes" in page
    assert "asked for. Columns: what the judge sees" in page


def test_the_table_holds_rows_and_bars(corpus: str, tmp_path: Path) -> None:
    results, _ = evaluate_known(corpus, tmp_path / "run", ExactPredictor())
    table = format_table(results)
    assert all(row in table for row in ROWS)
    assert "SSIM ↑" in table and "L1 mouth ↓" in table and "movement →1" in table
    assert "ACD-C" not in table, "only the report shows every metric"
    assert all(bar["what"] in table for bar in results["bars"])
    assert "not inferior" in table and "clips resampled" in table
    assert "forced emotion shown, by the judge (10 clips, chance 0.33)" in table


def test_results_from_json_give_the_same_table(corpus: str, tmp_path: Path) -> None:
    """JSON files have sorted keys."""
    results, _ = evaluate_known(corpus, tmp_path / "run", ExactPredictor())
    assert format_table(json.loads(json.dumps(results, sort_keys=True))) == format_table(results)


def test_metrics_are_described_by_the_results(corpus: str, tmp_path: Path) -> None:
    """Results that another process wrote, with a metric of a plugin that is not loaded here, can be shown."""
    results, _ = evaluate_known(corpus, tmp_path / "run", ExactPredictor())
    results["metrics"]["other"] = {"name": "other", "better": "lower", "unit": "", "digits": 1, "about": "of a plugin"}
    results["rows"]["speech only"]["values"]["other"] = {"mean": 2.0, "low": 1.0, "high": 3.0, "clips": 6}
    assert "other ↓" in format_table(results)


def test_rows_that_are_missing_are_named_and_not_shown(corpus: str, tmp_path: Path) -> None:
    results, examples = evaluate_known(corpus, tmp_path / "run", None)
    table = format_table(results)
    assert "no row reference baseline: no reference bundle was given" in table
    storage.write_bytes(str(tmp_path / FILE), examples)
    shown = shown_rows(read_examples(str(tmp_path)))
    assert list(shown.values()) == ["real clips", "another real take", "speech only, take given", "speech only"]
    assert shown["real clip"] == "real clips"


def test_results_of_another_version_are_one_clear_error(corpus: str, tmp_path: Path) -> None:
    results, _ = evaluate_known(corpus, tmp_path / "run", None)
    results["schema"] = 2
    for read in (format_table, lambda found: write_report(str(tmp_path), found)):
        with pytest.raises(storage.ArtifactError, match="has schema 2, this version reads 3: .* run `s2v evaluate`"):
            read(results)
