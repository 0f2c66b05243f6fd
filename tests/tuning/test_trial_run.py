"""What Ray Tune gets of a trial's run, and how the run is ended. The run is a fake; Ray is not started."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.training.launch import StoppedError
from s2v_ray.training.runs import RunSpec
from s2v_ray.tuning import sweep as module
from s2v_ray.tuning import trial_run
from s2v_ray.tuning.trials import Segment, Sweep
from tests.helpers.sweeps import make_sweep

Record = dict[str, Any]


def val(step: int, mouth_l1: float) -> Record:
    return {"step": step, "val_mouth_l1": mouth_l1, "val_psnr": 10.0}


class Runs:
    """Replaces ``launch``: reports its records one after another, and keeps what it was called with."""

    def __init__(self, records: list[Record], error: Exception | None = None) -> None:
        self.records, self.error = records, error
        self.specs: list[RunSpec] = []
        self.clusters: list[Any] = []
        self.reported: list[int] = []

    def __call__(self, spec: RunSpec, *, cluster: Any, on_record: Callable[[Record], bool]) -> None:
        self.specs.append(spec)
        self.clusters.append(cluster)
        for one in self.records:
            self.reported.append(one["step"])
            if not on_record(one):
                raise StoppedError("stopped")
        if self.error:
            raise self.error


def trial(sweep: Sweep, monkeypatch: pytest.MonkeyPatch, runs: Runs, params: dict[str, Any] | None = None) -> Any:
    monkeypatch.setattr(trial_run, "launch", runs)
    monkeypatch.setattr(module.Trainable, "trial_name", "00003")
    return module.Trainable(
        {"sweep": sweep.uri, "share": {"CPU": 2.0}, "trial": {"number": 3, "params": params or {"gan.lr": 0.002}}}
    )


def shown(result: dict[str, Any]) -> dict[str, Any]:
    return {
        k: v for k, v in result.items() if k in ("step", "segment", "start", "done", "ended") or k.startswith("val_")
    }


def test_it_trains_from_validation_to_validation_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(str(tmp_path))
    runs = Runs([{"step": 3, "loss": 1.0}, val(3, 0.5), {"step": 6, "loss": 1.0}, val(6, 0.4), val(12, 0.3)])
    own = trial(sweep, monkeypatch, runs)
    at = {"segment": 0, "start": 0}
    assert shown(own.step()) == {**val(3, 0.5), **at}
    assert runs.reported == [3, 3], "it waits for Ray Tune's decision"
    assert shown(own.step()) == {**val(6, 0.4), **at}
    assert shown(own.step()) == {**val(12, 0.3), **at, "ended": "finished", "done": True}
    (spec,) = runs.specs
    assert spec.run == storage.join(sweep.uri, "trials", "00003", "run-0")
    assert runs.clusters == [{"CPU": 2.0}] and spec.student == sweep.student
    assert spec.recipe.gan.lr == 0.002 and spec.recipe.log.validate_every == 3
    assert sweep.segments(3) == [Segment("run-0", {"gan.lr": 0.002})]


def test_one_that_is_stopped_ends_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs([val(3, 0.5), val(6, 0.4)])
    own = trial(make_sweep(str(tmp_path)), monkeypatch, runs)
    own.step()
    own.cleanup()
    assert runs.reported == [3] and not own.trial_run.thread.is_alive()


def test_an_alarm_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alarms = {"step": 6, "alarms": ["data_starved", "sync_at_chance"]}
    own = trial(
        make_sweep(str(tmp_path)),
        monkeypatch,
        Runs([{"step": 3, "alarms": ["data_starved"]}, val(3, 0.5), alarms, val(6, 0.4)]),
    )
    assert shown(own.step())["step"] == 3
    assert shown(own.step()) == {"ended": "stopped: sync_at_chance", "done": True}


def test_what_fails_for_good_is_reported_and_what_may_pass_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = make_sweep(str(tmp_path))
    assert shown(trial(sweep, monkeypatch, Runs([], ValueError("the loss is not finite"))).step()) == {
        "ended": "failed: the loss is not finite",
        "done": True,
    }
    for error in (storage.StoreError("no answer"), RuntimeError("a node died")):
        with pytest.raises(type(error)):
            trial(sweep, monkeypatch, Runs([], error)).step()
    result = shown(trial(sweep, monkeypatch, Runs([{"step": 3, "val_l1": 0.1}])).step())
    assert result["ended"].startswith("failed: validation does not measure mouth_l1, psnr on this corpus")


def test_one_that_takes_over_anothers_checkpoint_begins_a_new_run_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, records = make_sweep(str(tmp_path), scheduler="pbt"), [val(6, 0.4), val(9, 0.3)]
    first, other = (
        trial(sweep, monkeypatch, Runs([val(3, 0.5)])),
        storage.join(sweep.folder(1), "run-0", "checkpoints", "step-00000003"),
    )
    first.step()
    first.save_checkpoint(str(tmp_path))
    assert storage.read_json(str(tmp_path / "pointer.json")) == {
        "trial": 3,
        "step": 3,
        "checkpoint": storage.join(sweep.folder(3), "run-0", "checkpoints", "step-00000003"),
    }
    storage.write_json(str(tmp_path / "pointer.json"), {"trial": 1, "step": 3, "checkpoint": other})
    runs = Runs(records)
    own = trial(sweep, monkeypatch, runs, {"gan.lr": 0.009})
    own.load_checkpoint(str(tmp_path))
    assert shown(own.step()) == {**val(6, 0.4), "segment": 1, "start": 3}
    (spec,) = runs.specs
    assert spec.begin_from == other and spec.run.endswith("/00003/run-1") and spec.recipe.gan.lr == 0.009
    assert sweep.segments(3)[1] == Segment("run-1", {"gan.lr": 0.009}, other, 1, 3)

    restarted = trial(
        sweep, monkeypatch, Runs(records), {"gan.lr": 0.009}
    )  # its node died before it had reported: the same pointer again
    restarted.load_checkpoint(str(tmp_path))
    restarted.step()
    own.save_checkpoint(str(tmp_path))  # later: its own pointer
    restarted = trial(sweep, monkeypatch, Runs(records), {"gan.lr": 0.009})
    restarted.load_checkpoint(str(tmp_path))
    restarted.step()
    assert len(sweep.segments(3)) == 2
