"""Small whole sweeps on Ray."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.models.bundle import read_card
from s2v_ray.tuning import sweep as module
from s2v_ray.tuning.report import exploits
from s2v_ray.tuning.space import load_space, parse_space
from s2v_ray.tuning.sweep import run_sweep
from s2v_ray.tuning.trials import open_sweep
from tests.helpers import sweeps
from tests.helpers.logs import logged
from tests.helpers.sweeps import PARAMETERS, make_parents, sweep_recipe

SPACES = Path(__file__).parents[2] / "tune_spaces"


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_parents(str(tmp_path_factory.mktemp("parents")))


def all_free(cpus: float) -> bool:
    """Whether every CPU comes back within 20 s."""
    import ray

    for _ in range(40):
        if ray.available_resources().get("CPU", 0.0) == cpus:
            return True
        time.sleep(0.5)
    return False


def session_folder() -> str:
    import ray._private.worker

    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path())


@pytest.fixture
def fake_trials(monkeypatch: pytest.MonkeyPatch, local_ray: float) -> None:
    """Trials on Ray Tune whose runs are fakes."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sweeps)  # workers do not find the tests
    monkeypatch.setattr(module, "Trainable", sweeps.FakeTrainable)


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_tune_stops_replaces_and_resumes(
    tmp_path: Path, parents: tuple[str, str], fake_trials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASHA stops the worse of four and a resumed sweep repeats none; in a population the worst starts from the best."""
    planted = f"planted-{time.time_ns()}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted)  # after Ray has started
    corpus, student = parents
    recipe = sweep_recipe()
    lr = {"gan.lr": {"distribution": "loguniform", "low": 0.00001, "high": 0.1}}
    common = {"objectives": ["mouth_l1"], "parameters": lr, "validations": 4, "seed": 3}
    asha = parse_space(
        common | {"scheduler": "asha", "asha": {"grace": 0.25, "reduction": 2}, "trials": 4, "max_concurrent": 2},
        recipe,
    )
    uri = str(tmp_path / "asha")
    found = run_sweep(uri, asha, recipe, corpus, student=student)
    trials = open_sweep(uri).trials()
    assert (
        sum(found["trials"].values()) == 4
        and found["trials"]["stopped"] >= 1
        and found["reasons"] == {"worse than others (asha)": found["trials"]["stopped"]}
    )
    assert found["steps"] < 48, "the stopped ones were spared some steps"
    assert (
        found["winner"]
        == min((t for t in trials if t.state == "finished"), key=lambda t: t.scores()["mouth_l1"]).number
    )
    last = trials[3]  # as if the driver had been killed before it heard of trial 3's end
    last.state, last.reason = "running", ""
    open_sweep(uri).write(last)
    with logged() as lines:
        again = run_sweep(uri, asha, recipe, corpus, student=student, resume=True)
    assert [line.partition(":")[0] for line in lines if "starts" in line] == ["trial 3 starts"] and sum(
        again["trials"].values()
    ) == 4

    population = parse_space(
        common | {"scheduler": "pbt", "trials": 3, "max_concurrent": 3, "pbt": {"quantile": 0.34, "resample": 0.0}},
        recipe,
    )
    uri = str(tmp_path / "pbt")
    found = run_sweep(uri, population, recipe, corpus, student=student)
    sweep = open_sweep(uri)
    changes = exploits(sweep, sweep.trials())
    assert found["trials"] == {"finished": 3} and len(changes) >= 2
    for change in changes:
        assert change.parent_value < change.before and change.left == change.step, "from a better one, at the same step"
        ((key, old, new),) = change.changed
        assert key == "gan.lr" and new / old in (pytest.approx(0.8), pytest.approx(1.25))

    logs = [p for p in Path(session_folder(), "logs").rglob("*") if p.is_file()]
    assert any("PL_DISABLE_FORK" in p.read_text(errors="replace") for p in logs), (
        "trials' environments are written to the logs"
    )
    assert [p.name for p in logs if planted in p.read_text(errors="replace")] == []


@pytest.mark.cluster
@pytest.mark.minutes
def test_a_sweep_ends_dead_trials_picks_a_winner_and_repeats_nothing(
    tmp_path: Path, parents: tuple[str, str], local_ray: float
) -> None:
    corpus, student = parents
    uri, recipe = str(tmp_path / "sweep"), sweep_recipe()
    fields = {"trials": 2, "max_concurrent": 2, "validations": 2, "stop_on": ["frame_discriminator_saturated"]}
    space = parse_space({"objectives": ["mouth_l1", "psnr"], "parameters": PARAMETERS, **fields}, recipe)
    found = run_sweep(uri, space, recipe, corpus, student=student)
    sweep = open_sweep(uri)
    assert found["trials"] == {"finished": 2} and found["winner"] in found["pareto"]
    assert [[p["step"] for p in t.curve] for t in sweep.trials()] == [[6, 12], [6, 12]] and found["steps"] == 24
    assert read_card(storage.join(found["run"], "bundle"))["lineage"]["student"] == read_card(student)["sha256"]
    assert all_free(local_ray)

    last = sweep.trials()[1]  # as if the driver had been killed after trial 1's checkpoint of step 6, before its end
    last.state, last.curve = "running", last.curve[:1]
    sweep.write(last)
    with logged() as again:
        resumed = run_sweep(uri, space, recipe, corpus, student=student, resume=True)
    assert resumed["trials"] == {"finished": 2} and resumed["steps"] == 24
    assert [line.partition(":")[0] for line in again if "starts" in line] == ["trial 1 starts"], (
        "trial 0 is not repeated"
    )
    assert all_free(local_ray)


@pytest.mark.cluster
@pytest.mark.minutes
def test_a_population_takes_over_checkpoints_and_changes_schedules_in_mid_run(
    tmp_path: Path, parents: tuple[str, str], local_ray: float
) -> None:
    corpus, student = parents
    recipe = sweep_recipe()
    space = load_space(str(SPACES / "smoke_pbt.yaml"), recipe)
    found = run_sweep(str(tmp_path / "sweep"), space, recipe, corpus, student=student)
    sweep = open_sweep(str(tmp_path / "sweep"))
    assert found["trials"] == {"finished": 3}
    changes = exploits(sweep, sweep.trials())
    assert len(changes) >= 2
    for change in changes:
        assert change.changed and change.step % 3 == 0 and change.parent != change.trial
        segment = next(s for s in sweep.segments(change.trial) if s.parent == change.parent and s.step == change.step)
        run = sweep.run_of(change.trial, segment)
        manifest = storage.read_json(storage.join(run, "manifest.json"))
        assert manifest["begin_from"] == segment.begin_from and "checkpoint" in manifest["parents"]
        assert manifest["recipe"]["gan"]["lr"] == segment.params["gan.lr"]
        steps = [
            line["step"]
            for line in map(json.loads, storage.read_bytes(storage.join(run, "metrics.jsonl")).decode().splitlines())
        ]
        assert min(steps) > segment.step, "the run went on from the other's step"
    assert all_free(local_ray), "replaced runs have let go of their workers"
