"""The rows of an evaluation, with predictors and judges that generate and measure known content."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray import storage
from s2v_ray.config import load_recipe
from s2v_ray.evaluation.evaluate import evaluate, evaluate_clips, open_predictors
from s2v_ray.evaluation.report import format_table, write_report
from s2v_ray.evaluation.results import EVALUATION_SCHEMA, ClipResults
from s2v_ray.evaluation.rows import ROWS, RowGenerator
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.models.judges import Judges
from tests.helpers.bundles import DIM, make_bundle, make_teacher
from tests.helpers.evaluated import (
    JUDGES,
    RECIPE,
    ExactPredictor,
    FixedTakes,
    identity,
    make_clip,
    make_clips,
    opening_of,
    render,
    write_corpus,
)


def run(
    predictor: ExactPredictor,
    reference: ExactPredictor | None = None,
    judges: Judges = JUDGES,
    labelled: bool = True,
) -> ClipResults:
    clips = make_clips(labelled=labelled)
    takes = FixedTakes(clips, [make_clip(n, n % 2, n % 3) for n in range(20, 30)])
    generator = RowGenerator(predictor, reference, identity, RECIPE.seed, takes, best_of=2)
    return evaluate_clips(clips, generator, judges, RECIPE)[0]


def mean(results: ClipResults, row: str, metric: str) -> float | None:
    return results["rows"][row]["values"][metric]["mean"]


def test_an_exact_predictor_equals_the_real_clips() -> None:
    results = run(ExactPredictor(), reference := ExactPredictor())
    assert list(results["rows"]) == list(ROWS) and results["missing_rows"] == {}
    assert len(reference.stills) == 12
    exact = {
        "ssim": 1,
        "error_mouth": 0,
        "movement_mouth": 1,
        "acd": 0,
        "csim": 1,
        "emotion": 1,
        "mouth_lag": 0,
        "sync_offset": 0,
    }
    for row in ("real clips", "reference baseline", "image identity", "speech only", "speech only, take given"):
        assert results["rows"][row]["note"] == ""
        assert results["rows"][row]["lags"] == {"mouth": 0, "sync": 0}
        assert mean(results, row, "psnr") is None, "infinite, because there is no error"
        for metric, value in exact.items():
            assert mean(results, row, metric) == pytest.approx(value, abs=1e-5), (row, metric)
        assert mean(results, row, "mouth_correlation") > 0.999
        assert mean(results, row, "sync_distance") < 0.02
        assert mean(results, row, "sync_confidence") > 0.4
        assert mean(results, row, "aperture_correlation") > 0.999
        assert mean(results, row, "landmark_distance") == 0
        assert mean(results, row, "kid_identity") == pytest.approx(mean(results, "real clips", "kid_identity"))
    assert results["confusion"]["share"] == 1.0
    assert results["notes"] == []
    assert results["diversity"]["mean"] == 0.0, "all samples are equal"
    pairs = {(d["row"], d["base"], d["metric"]): d for d in results["differences"]}
    equal = pairs["speech only, take given", "reference baseline", "ssim"]
    assert (equal["mean"], equal["margin"], equal["not_inferior"]) == (0.0, 0.01, True)
    moved = pairs["speech only, take given", "still of the same take", "error_mouth"]
    assert moved["mean"] > 30 and moved["margin"] is None and moved["not_inferior"] is None
    json.dumps(results, allow_nan=False)


def test_a_still_frame_does_not_move() -> None:
    results = run(ExactPredictor())
    still = "still of the same take"
    assert mean(results, still, "movement_mouth") == 0
    assert mean(results, still, "mouth_correlation") == mean(results, still, "aperture_correlation") == 0
    assert results["rows"][still]["lags"]["mouth"] is None
    assert mean(results, still, "error_mouth") > 30
    assert mean(results, still, "csim") == pytest.approx(1.0)


def test_late_frames_are_measured() -> None:
    results = run(ExactPredictor(late=2))
    assert results["rows"]["speech only"]["lags"] == {"mouth": 2, "sync": -2}
    assert mean(results, "speech only", "mouth_lag") == 2
    assert mean(results, "speech only", "mouth_correlation") < 0.5


def test_one_emotion_for_all_clips_is_measured() -> None:
    results = run(ExactPredictor(always=1))
    assert mean(results, "speech only", "emotion") == pytest.approx(1 / 3)
    assert results["confusion"]["share"] == pytest.approx(1 / 3)


def test_without_a_reference_its_rows_are_missing_with_a_reason() -> None:
    results = run(ExactPredictor())
    missing = {"reference baseline", "reference baseline, still of another take"}
    assert results["rows"].keys() == set(ROWS) - missing
    assert results["missing_rows"] == dict.fromkeys(sorted(missing), "no reference bundle was given")


def test_clips_without_another_take_are_counted() -> None:
    clips = [make_clip(0, 0, 0), make_clip(1, 1, 1), make_clip(2, 0, 2)]
    generator = RowGenerator(ExactPredictor(), None, identity, 0, FixedTakes(clips), best_of=2)
    results = evaluate_clips(clips, generator, JUDGES, RECIPE)[0]
    assert results["rows"]["mean frame"]["values"]["ssim"]["clips"] == 2
    reason = "1 of 3 clips have no other take of their speaker in the corpus"
    assert results["rows"]["mean frame"]["note"] == results["rows"]["another real take"]["note"] == reason
    alone = evaluate_clips(clips, RowGenerator(ExactPredictor(), None, identity, 0), JUDGES, RECIPE)[0]
    assert alone["missing_rows"]["mean frame"].startswith("3 of 3 clips have no other take")
    assert alone["diversity"] is None
    assert "kid_identity" not in alone["rows"]["real clips"]["values"]


def test_without_labels_the_judge_decides_on_the_real_clip() -> None:
    results = run(ExactPredictor(), labelled=False)
    assert "real clip" in results["emotion_truth"]
    assert mean(results, "speech only", "emotion") == 1.0
    assert "mouth_correlation" not in results["rows"]["speech only"]["values"]


def test_without_judges_their_metrics_are_absent() -> None:
    results = run(ExactPredictor(), judges=Judges())
    assert results["missing_judges"] == ["identity", "emotion", "mouth", "sync", "landmarks"]
    absent = {"csim", "emotion", "sync_confidence", "mouth_correlation", "landmark_distance", "kid_identity"}
    assert not absent & set(results["rows"]["speech only"]["values"])
    assert results["confusion"] is None
    assert "landmark distance is left out" in results["notes"][0]
    assert "measured by brightness: aperture, head motion, blinks" in results["notes"][1]
    assert mean(results, "speech only", "aperture_correlation") == 0.0, "a mouth of one brightness has no dark inside"


def test_frames_of_another_length_are_refused() -> None:
    class Short(ExactPredictor):
        def generate(self, request: GenerationRequest) -> Iterator[np.ndarray]:
            yield render(opening_of(request.speech), 0, 0)[:-1]

    with pytest.raises(ValueError, match="use a bundle that was trained on frames of this size"):
        run(Short())


# ---- a whole evaluation of a bundle on a corpus


@pytest.fixture
def taught_corpus(tmp_path: Path) -> str:
    """A corpus with an identity teacher for the bundles of the tests, and no judges."""
    folder = tmp_path / "taught"
    make_teacher(folder / "teachers" / "identity")
    return write_corpus(folder, make_clips(24), make_clips(12), identity_dim=DIM)


def test_results_are_written_and_returned(taught_corpus: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "run" / "bundle")
    out = str(tmp_path / "out")
    recipe = load_recipe("debug", ["evaluate.max_clips=2", "evaluate.bootstrap=50"])
    results = evaluate(taught_corpus, out, bundle, recipe)
    assert storage.read_json(f"{out}/results.json") == results
    manifest = storage.read_manifest(out, "evaluation", EVALUATION_SCHEMA)
    assert manifest["config_digest"] == recipe.digest()
    assert manifest["parents"]["corpus"] == "corpus-digest"
    assert (results["clips"], results["schema"], results["reference_bundle"]) == (2, EVALUATION_SCHEMA, None)
    assert results["bars"] and results["student"]["clips"] == 12
    assert write_report(out, results).keys() == {"results", "contact", "emotions", "sample", "report"}


def test_a_reference_baseline_is_the_other_kind_of_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    reference = make_bundle(tmp_path / "reference", "gan.generator.reference=true")
    assert open_predictors(bundle, None)[1] is None
    assert open_predictors(bundle, reference)[1] is not None
    for wrong in ((reference, None), (bundle, bundle)):
        with pytest.raises(ValueError, match="--reference-bundle one that was trained with a still"):
            open_predictors(*wrong)


def test_a_bundle_for_frames_of_another_size_is_refused(taught_corpus: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", "media.size=64", "gan.generator.channels=[8,8,8,8,8]")
    with pytest.raises(ValueError, match="generates frames of 64 pixels, .* has 32"):
        evaluate(taught_corpus, str(tmp_path / "out"), bundle, load_recipe("debug"))


PLUGIN = """
from s2v_ray.metrics import Metric
from s2v_ray.metrics.clip_metrics import MetricInput, register


def first_brightness(clip: MetricInput) -> float:
    return float(clip.frames[0].mean())


about = "mean grey level of the first frame"
register("brightness", Metric("brightness", "higher", "levels", 1, about), first_brightness)
"""


def test_a_metric_of_a_plugin_is_in_results_and_report(
    taught_corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric is added from outside the package with one module; the recipe names it."""
    from s2v_ray.metrics.clip_metrics import METRICS

    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "brightness_plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path / "plugins")
    overrides = ["plugins=[brightness_plugin]", "evaluate.max_clips=2", "evaluate.bootstrap=50"]
    try:
        recipe = load_recipe("debug", overrides)
        bundle, out = make_bundle(tmp_path / "bundle"), str(tmp_path / "out")
        results = evaluate(taught_corpus, out, bundle, recipe)
        page = storage.read_bytes(write_report(out, results)["report"]).decode()
        table = format_table(results)
    finally:
        METRICS.pop("brightness", None)
    assert results["metrics"]["brightness"]["unit"] == "levels"
    first = results["rows"]["real clips"]["values"]["brightness"]
    assert first == results["rows"]["still of the same take"]["values"]["brightness"]
    assert first["clips"] == 2 and first["mean"] > 20
    assert "brightness ↑ (levels)" in page and "mean grey level of the first frame" in page
    assert "brightness ↑" in table


def test_random_state_does_not_matter(taught_corpus: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    recipe = load_recipe("debug", ["evaluate.max_clips=2", "evaluate.bootstrap=50"])
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        results = evaluate(taught_corpus, str(tmp_path / f"out{seed}"), bundle, recipe)
        found.append({k: v for k, v in results.items() if k != "frames_per_second"})
    assert found[0] == found[1]
