"""A sweep as an entry of experiment trackers."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.tracking.mlflow_runs import PARENT_TAG, MlflowRuns
from s2v_ray.training.runs import RunSpec, claim_run
from s2v_ray.training.trackers import describe_run
from s2v_ray.tuning import sweep as module
from s2v_ray.tuning.tracked import describe_sweep
from s2v_ray.tuning.trials import summary
from tests.helpers.sweeps import add_trial, make_sweep


def test_the_entry_of_a_sweep_has_its_space_and_what_it_found(tmp_path: Path) -> None:
    sweep = make_sweep(str(tmp_path))
    before = describe_sweep(sweep)
    assert before.config["space.objectives"] == "['mouth_l1', 'psnr']" and before.config["name"] == "debug"
    assert before.figures == {} and before.files == {}
    assert set(before.tags) >= {"s2v.space_digest", "s2v.config_digest", "s2v.parent.corpus"}
    add_trial(sweep, 0, [(12, 0.4, 10.0)])
    add_trial(sweep, 1, [(12, 0.3, 11.0)])
    add_trial(sweep, 2, [(3, 0.1, 20.0)], "stopped", "worse than others (asha)")
    after = describe_sweep(sweep, summary(sweep, sweep.trials()), "sweep/report.html")
    assert after.figures == {
        "trials finished": 2,
        "trials stopped": 1,
        "steps": 27,
        "winner": 1,
        "winner mouth_l1": 0.3,
        "winner psnr": 11.0,
    }
    assert after.files == {"report.html": "sweep/report.html"}


def test_runs_of_trials_are_shown_under_their_sweep(mlflow_store: str, tmp_path: Path) -> None:  # noqa: ARG001  # set
    sweep = make_sweep(str(tmp_path))
    runs = MlflowRuns()
    runs.publish(describe_sweep(sweep))
    run = storage.join(sweep.folder(0), "run-0")
    claim_run(RunSpec("gan", sweep.recipe, sweep.corpus, run, sweep.student, sweep=sweep.uri))
    made = runs.client.get_run(runs.open(describe_run(run)))
    assert made.data.tags[PARENT_TAG] == runs.find(sweep.uri)


def test_a_sweep_is_published_before_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_sweep(str(tmp_path))
    published: list[str] = []
    monkeypatch.setattr(module, "publish", lambda _, entry: published.append(entry.uri))
    monkeypatch.setattr(module, "start_ray", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        module.run_sweep(sweep.uri, sweep.space, sweep.recipe, sweep.corpus, student=sweep.student, resume=True)
    assert published == [sweep.uri]
