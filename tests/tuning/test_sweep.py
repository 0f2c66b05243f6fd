"""Sweeps on Ray: placement worked out by hand, and small whole sweeps, with what they leave behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.config import load_recipe
from s2v_ray.models.bundle import read_card
from s2v_ray.training.checkpoint import CHECKPOINT_SCHEMA
from s2v_ray.tuning import sweep as module
from s2v_ray.tuning.report import exploits
from s2v_ray.tuning.space import SpaceError, load_space, parse_space
from s2v_ray.tuning.sweep import Table, _scheduler, run_sweep, slots
from s2v_ray.tuning.trials import open_sweep
from tests.helpers import sweeps
from tests.helpers.sweeps import PARAMETERS, add_trial, make_parents, make_sweep, tiny_recipe

GIB = 2.0**30
SPACES = Path(__file__).parents[2] / "tune_spaces"


def node(cpus: float, gpus: float = 0.0) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "memory": 64 * GIB}


@pytest.mark.parametrize(
    ("nodes", "changes", "wanted", "count", "share"),
    [
        ([node(2)], (), None, 1, {"CPU": 2.0, "GPU": 0.0}),  # a worker and the decoding take both CPUs
        ([node(1)], (), None, 1, {"CPU": 1.0, "GPU": 0.0}),
        ([node(2)], (), 4, 4, {"CPU": 0.5, "GPU": 0.0}),  # on purpose: a quarter for the worker, a quarter to decode
        ([node(8)], (), None, 4, {"CPU": 2.0, "GPU": 0.0}),
        ([node(16, 4)], ("parallel.gpu=true",), None, 4, {"CPU": 4.0, "GPU": 1.0}),
        ([node(16, 4), node(16, 4)], ("parallel.gpu=true", "parallel.workers=4"), None, 2, {"CPU": 16.0, "GPU": 4.0}),
        (
            [node(2), node(2), node(2)],
            ("parallel.workers=2",),
            None,
            2,
            {"CPU": 3.0, "GPU": 0.0},
        ),  # the workers of one stand on two nodes
        ([node(3), node(3)], ("parallel.cpus_per_worker=2",), None, 2, {"CPU": 3.0, "GPU": 0.0}),
    ],
)
def test_as_many_trials_as_fit(
    nodes: list[dict[str, float]], changes: tuple[str, ...], wanted: int | None, count: int, share: dict[str, float]
) -> None:
    assert slots(nodes, load_recipe("debug", list(changes)), wanted) == (count, share)


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(
        SpaceError,
        match="one trial does not fit: parallel.workers=2 with parallel.gpu needs as many GPUs, the cluster has 1",
    ):
        slots([node(8, 1)], load_recipe("debug", ["parallel.gpu=true", "parallel.workers=2"]))
    with pytest.raises(SpaceError, match="3 trials at once do not fit: parallel.workers=1 with parallel.gpu needs"):
        slots([node(8, 2)], load_recipe("debug", ["parallel.gpu=true"]), 3)
    with pytest.raises(SpaceError, match="one trial does not fit: the nodes have 2 CPUs"):
        slots([{"CPU": 2.0, "memory": 1e6}], load_recipe("debug"))  # no memory for the trial's own process


def test_a_resumed_asha_knows_what_earlier_trials_reached(tmp_path: Path) -> None:
    """Rungs at steps 3 and 6; of the past at step 3 (0.2, 0.3, 0.4, 0.5) the best half, above 0.35 negated, go on."""
    sweep = make_sweep(str(tmp_path), scheduler="asha", lead="mouth_l1", asha={"grace": 0.25, "reduction": 2})
    for n in range(4):
        add_trial(sweep, n, [(3, 0.2 + 0.1 * n, 1.0), (6, 0.2, 1.0), (12, 0.1, 1.0)])
    scheduler: Any = _scheduler(Table(sweep, print))

    class Later:
        trial_id = "later"

    decisions = []
    for value in (0.34, 0.36):
        scheduler.on_trial_add(None, Later())
        decisions.append(scheduler.on_trial_result(None, Later(), {"step": 3, "val_mouth_l1": value}))
        scheduler.on_trial_remove(None, Later())
        scheduler._brackets[0]._rungs[-1][1].pop("later")
    assert decisions == ["CONTINUE", "STOP"]


@pytest.mark.parametrize(("checkpoint", "told"), [(6, [3, 6]), (3, [3]), (None, [])])
def test_of_a_trial_that_was_cut_off_asha_knows_what_will_not_come_again(
    tmp_path: Path, checkpoint: int | None, told: list[int]
) -> None:
    """Validated at step 6 and killed, while the checkpoint of that step was being written or after."""
    sweep = make_sweep(str(tmp_path), scheduler="asha", lead="mouth_l1", asha={"grace": 0.25, "reduction": 2})
    add_trial(sweep, 0, [(3, 0.3, 1.0), (6, 0.2, 1.0)], state="running")
    if checkpoint:
        uri = storage.join(sweep.run_of(0, sweep.segments(0)[0]), "checkpoints", f"step-{checkpoint:08d}")
        storage.write_manifest(uri, "checkpoint", CHECKPOINT_SCHEMA, step=checkpoint, workers=1, sha256={})
    scheduler: Any = _scheduler(Table(sweep, print))
    assert sorted(step for step, reached in scheduler._brackets[0]._rungs if "past-0" in reached) == told


def test_a_population_waits_for_all_and_then_replaces_the_worst(tmp_path: Path) -> None:
    """Three trials, worked out by hand; the controller and the trials are stand-ins."""
    sweep = make_sweep(
        str(tmp_path), scheduler="pbt", lead="mouth_l1", trials=3, pbt={"quantile": 0.34, "resample": 0.0}
    )
    population: Any = _scheduler(Table(sweep, print))
    log: list[tuple[str, int]] = []
    trials = [FakeTrial(n) for n in range(3)]
    controller = FakeController(trials, log)
    for trial in trials:
        population.on_trial_add(controller, trial)

    def report(trial: FakeTrial, step: int, value: float) -> str:
        return str(population.on_trial_result(controller, trial, {"step": step, "val_mouth_l1": value}))

    assert [report(trials[0], 3, 0.5), report(trials[1], 3, 0.9)] == ["NOOP", "NOOP"] and log == []
    assert report(trials[2], 3, 0.2) == "CONTINUE", "the best, and the last to report, goes on"
    assert log == [("save", 2), ("train", 0), ("pause", 1)]
    new, old = trials[1].config["trial"]["params"], trials[2].config["trial"]["params"]
    assert new["gan.lr"] / old["gan.lr"] in (pytest.approx(0.8), pytest.approx(1.25)), "the donor's values, perturbed"
    log.clear()
    trials[1].status = "RUNNING"  # Ray Tune has started it again
    assert [report(trials[2], 6, 0.1), report(trials[1], 6, 0.3)] == ["NOOP", "NOOP"]
    population.on_trial_complete(controller, trials[0], {"step": 12})
    assert log == [("save", 2), ("train", 2), ("pause", 1)], "one that ends keeps nobody waiting"


class FakeTrial:
    status = "RUNNING"

    def __init__(self, number: int) -> None:
        self.number, self.trial_id, self.experiment_tag = number, f"t{number}", f"{number}"
        self.config: dict[str, Any] = {"trial": {"number": number, "params": {"gan.lr": 0.001 * (1 + number)}}}
        manager = type(
            "Manager",
            (),
            {"checkpoint_config": type("Config", (), {"num_to_keep": None})(), "_latest_checkpoint_result": None},
        )()
        self.run_metadata: Any = type("Metadata", (), {"checkpoint_manager": manager})()

    def is_finished(self) -> bool:
        return False

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config

    def set_experiment_tag(self, tag: str) -> None:
        self.experiment_tag = tag


class FakeController:
    search_alg = None

    def __init__(self, trials: list[FakeTrial], log: list[tuple[str, int]]) -> None:
        self.trials, self.log = trials, log

    def get_trials(self) -> list[FakeTrial]:
        return self.trials

    def pause_trial(self, trial: FakeTrial, should_checkpoint: bool) -> None:
        self.log.append(("pause", trial.number))
        trial.status = "PAUSED"

    def _schedule_trial_save(self, trial: FakeTrial, result: Any) -> str:
        self.log.append(("save", trial.number))
        return f"checkpoint of {trial.number}"

    def _schedule_trial_train(self, trial: FakeTrial) -> None:
        self.log.append(("train", trial.number))


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_parents(str(tmp_path_factory.mktemp("parents")))


@pytest.fixture(scope="module")
def ray_cpus() -> Iterator[float]:
    import ray

    from s2v_ray.cluster.runtime import start_ray

    start_ray()
    yield ray.cluster_resources()["CPU"]
    ray.shutdown()


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
def stand_in(monkeypatch: pytest.MonkeyPatch, ray_cpus: float) -> None:
    """Trials on Ray Tune whose runs are stand-ins: what is left is Ray Tune and us."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sweeps)  # workers do not find the tests
    monkeypatch.setattr(module, "_Trial", sweeps.StandIn)


@pytest.mark.cluster
@pytest.mark.slow
def test_ray_tune_stops_replaces_and_resumes(
    tmp_path: Path, parents: tuple[str, str], stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASHA ends the worse of four, and a resumed sweep repeats none. Then a population of three, whose worst begins from the best."""
    planted = f"planted-{time.time_ns()}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", planted)  # after Ray has started
    corpus, student = parents
    recipe, lines = tiny_recipe(), []
    lr = {"gan.lr": {"distribution": "loguniform", "low": 0.00001, "high": 0.1}}
    common = {"objectives": ["mouth_l1"], "parameters": lr, "validations": 4, "seed": 3}
    asha = parse_space(
        common | {"scheduler": "asha", "asha": {"grace": 0.25, "reduction": 2}, "trials": 4, "at_once": 2}, recipe
    )
    uri = str(tmp_path / "asha")
    found = run_sweep(uri, asha, recipe, corpus, student=student, progress=lines.append)
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
    lines.clear()
    again = run_sweep(uri, asha, recipe, corpus, student=student, resume=True, progress=lines.append)
    assert [line.partition(":")[0] for line in lines if "starts" in line] == ["trial 3 starts"] and sum(
        again["trials"].values()
    ) == 4

    population = parse_space(
        common | {"scheduler": "pbt", "trials": 3, "at_once": 3, "pbt": {"quantile": 0.34, "resample": 0.0}}, recipe
    )
    uri = str(tmp_path / "pbt")
    found = run_sweep(uri, population, recipe, corpus, student=student, progress=print)
    sweep = open_sweep(uri)
    changes = exploits(sweep, sweep.trials())
    assert found["trials"] == {"finished": 3} and len(changes) >= 2
    for change in changes:
        assert change["parent_value"] < change["before"] and change["left"] == change["step"], (
            "from a better one, at the same step"
        )
        ((key, old, new),) = change["changed"]
        assert key == "gan.lr" and new / old in (pytest.approx(0.8), pytest.approx(1.25))

    logs = [p for p in Path(session_folder(), "logs").rglob("*") if p.is_file()]
    assert any("PL_DISABLE_FORK" in p.read_text(errors="replace") for p in logs), (
        "trials' environments are written to the logs"
    )
    assert [p.name for p in logs if planted in p.read_text(errors="replace")] == []


@pytest.mark.cluster
@pytest.mark.minutes
def test_a_sweep_ends_dead_trials_picks_a_winner_and_repeats_nothing(
    tmp_path: Path, parents: tuple[str, str], ray_cpus: float
) -> None:
    corpus, student = parents
    uri, recipe = str(tmp_path / "sweep"), tiny_recipe()
    fields = {"trials": 2, "at_once": 2, "validations": 2, "stop_on": ["frame_discriminator_saturated"]}
    space = parse_space({"objectives": ["mouth_l1", "psnr"], "parameters": PARAMETERS, **fields}, recipe)
    lines: list[str] = []
    found = run_sweep(uri, space, recipe, corpus, student=student, progress=lines.append)
    sweep = open_sweep(uri)
    assert found["trials"] == {"finished": 2} and found["winner"] in found["pareto"]
    assert [[p["step"] for p in t.curve] for t in sweep.trials()] == [[6, 12], [6, 12]] and found["steps"] == 24
    assert read_card(storage.join(found["run"], "bundle"))["lineage"]["student"] == read_card(student)["sha256"]
    assert all_free(ray_cpus)

    last = sweep.trials()[1]  # as if the driver had been killed after trial 1's checkpoint of step 6, before its end
    last.state, last.curve = "running", last.curve[:1]
    sweep.write(last)
    again: list[str] = []
    resumed = run_sweep(uri, space, recipe, corpus, student=student, resume=True, progress=again.append)
    assert resumed["trials"] == {"finished": 2} and resumed["steps"] == 24
    assert [line.partition(":")[0] for line in again if "starts" in line] == ["trial 1 starts"], (
        "trial 0 is not repeated"
    )
    assert all_free(ray_cpus)


@pytest.mark.cluster
@pytest.mark.minutes
def test_a_population_takes_over_checkpoints_and_changes_schedules_in_mid_run(
    tmp_path: Path, parents: tuple[str, str], ray_cpus: float
) -> None:
    corpus, student = parents
    recipe = tiny_recipe()
    space = load_space(str(SPACES / "smoke_pbt.yaml"), recipe)
    found = run_sweep(str(tmp_path / "sweep"), space, recipe, corpus, student=student, progress=print)
    sweep = open_sweep(str(tmp_path / "sweep"))
    assert found["trials"] == {"finished": 3}
    changes = exploits(sweep, sweep.trials())
    assert len(changes) >= 2
    for change in changes:
        assert change["changed"] and change["step"] % 3 == 0 and change["parent"] != change["trial"]
        segment = next(
            s for s in sweep.segments(change["trial"]) if s.parent == change["parent"] and s.step == change["step"]
        )
        run = sweep.run_of(change["trial"], segment)
        manifest = storage.read_json(storage.join(run, "manifest.json"))
        assert manifest["begin_from"] == segment.begin_from and "checkpoint" in manifest["parents"]
        assert manifest["recipe"]["gan"]["lr"] == segment.params["gan.lr"]
        steps = [
            line["step"]
            for line in map(json.loads, storage.read_bytes(storage.join(run, "metrics.jsonl")).decode().splitlines())
        ]
        assert min(steps) > segment.step, "the run went on from the other's step"
    assert all_free(ray_cpus), "replaced runs have let go of their workers"
