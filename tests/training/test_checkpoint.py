"""Checkpoints are whole or passed over; a resumed run is the run that was not cut off."""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from s2v_ray import storage
from s2v_ray.training import checkpoint, lease, saving
from s2v_ray.training.engine import EngineConfig, OptimizerConfig
from tests.helpers.logs import logged
from tests.helpers.plain_engine import PlainEngine, make_plain_engine


def engine() -> PlainEngine:
    module = nn.Linear(3, 2)
    groups = [{"params": module.parameters()}]
    return make_plain_engine(module, groups, OptimizerConfig(0.1, (0.9, 0.99)), EngineConfig())


def attempt_of(run: str) -> lease.Attempt:
    """The only attempt of a driver, which several savers of a test share."""
    holder = lease.read_state(run).holder
    if holder is None:
        return lease.begin_attempt(run, lease.acquire(run))
    return lease.Attempt(run, holder.token, lease.read_state(run).attempt)


def save(
    run: str,
    step: int,
    engines: dict[str, Any],
    state: dict[str, Any],
    keep: int,
    metrics: dict[str, float] | None = None,
    **how: Any,
) -> list[str]:
    """Save and wait; return what was logged."""
    saver = saving.Saver(attempt_of(run), keep, **how)
    with logged() as lines:
        saver.save(step, engines, state, metrics)
        saver.wait()
    return lines


def train(e: PlainEngine) -> None:
    e.backward(e(torch.randn(4, 3)).square().mean() * random.random() * np.random.rand())
    e.step()


def test_random_generators_weights_and_state_continue(tmp_path: Path) -> None:
    e = engine()
    train(e)
    save(str(tmp_path), 1, {"student": e}, {"ema": {"w": torch.ones(2)}, "seen": 7}, 2)
    train(e)
    other = engine()
    found = checkpoint.latest(str(tmp_path))
    assert found is not None and found.step == 1 and found.workers == 1
    state = checkpoint.load(found, {"student": other})
    assert state["seen"] == 7 and torch.equal(state["ema"]["w"], torch.ones(2))
    train(other)
    torch.testing.assert_close(other.module.state_dict(), e.module.state_dict(), rtol=0, atol=0)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 1500):
        save(str(tmp_path), step, {"student": engine()}, {}, 2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00001500"]


@pytest.mark.parametrize("harm", ["flip", "cut", "no manifest", "no file"])
def test_damage_is_logged_and_the_one_before_is_used(tmp_path: Path, harm: str) -> None:
    for step in (1, 2):
        save(str(tmp_path), step, {"student": engine()}, {}, 5)
    folder = tmp_path / "checkpoints" / "step-00000002" / "attempt-0002"
    victim = folder / ("manifest.json" if harm == "no manifest" else "student/worker-00000.safetensors")
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(bytes(data))
    elif harm == "cut":
        victim.write_bytes(bytes(data[:-1]))
    else:
        victim.unlink()
    with logged() as lines:
        resumed = checkpoint.resume(str(tmp_path), {"student": engine()})
    assert resumed is not None and resumed[0].step == 1
    assert len(lines) == 1 and lines[0].startswith("checkpoint of step 2 passed over: ")


def test_a_damaged_checkpoint_changes_nothing(tmp_path: Path) -> None:
    save(str(tmp_path), 1, {"student": engine(), "other": engine()}, {}, 1)
    found = checkpoint.latest(str(tmp_path))
    assert found is not None
    (Path(found.uri) / "other" / "worker-00000.safetensors").write_bytes(b"")
    student = engine()
    before = {name: value.clone() for name, value in student.module.state_dict().items()}
    with pytest.raises(storage.ArtifactError, match="other/worker-00000.safetensors is damaged"):
        checkpoint.load(found, {"student": student, "other": engine()})
    torch.testing.assert_close(student.module.state_dict(), before, rtol=0, atol=0)


def test_nothing_there() -> None:
    assert checkpoint.latest("memory://nowhere") is None


def test_any_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    run = "memory://bucket/run"
    save(run, 3, {"student": engine()}, {"x": 1}, 1)
    save(run, 4, {"student": (e := engine())}, {"x": 2}, 1)
    found = checkpoint.latest(run)
    assert found is not None and found.step == 4
    other = engine()
    assert checkpoint.load(found, {"student": other})["x"] == 2
    torch.testing.assert_close(other.module.state_dict(), e.module.state_dict())


def test_training_goes_on_while_a_slow_store_takes_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is written as it was, although training changes it meanwhile; the next checkpoint waits."""
    upload, gate = saving._upload, threading.Event()

    def slowly(path: str, uri: str) -> None:
        assert gate.wait(30)
        upload(path, uri)

    monkeypatch.setattr(saving, "_upload", slowly)
    run, e, saver = "memory://slow/run", engine(), saving.Saver(attempt_of("memory://slow/run"), 2)
    before = {name: value.clone() for name, value in e.module.state_dict().items()}
    ema = {"w": torch.zeros(2)}
    saver.save(1, {"student": e}, {"ema": ema})  # returns though nothing can be written yet
    train(e)
    ema["w"] += 1
    assert checkpoint.latest(run) is None
    threading.Timer(0.3, gate.set).start()
    saver.save(2, {"student": e}, {"ema": ema})
    assert saver.waited >= 0.25
    first = checkpoint.latest(run)
    assert first is not None
    saver.wait()
    other = engine()
    assert (
        checkpoint.load(checkpoint.open_checkpoint(f"{run}/checkpoints/step-00000001"), {"student": other})["ema"][
            "w"
        ].sum()
        == 0
    )
    torch.testing.assert_close(other.module.state_dict(), before, rtol=0, atol=0)
    newest = checkpoint.latest(run)
    assert newest is not None and newest.step == 2


def test_a_store_that_refuses_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    upload, refused = saving._upload, [storage.StoreError("busy")] * 2

    def sometimes(path: str, uri: str) -> None:
        if refused:
            raise refused.pop()
        upload(path, uri)

    monkeypatch.setattr(saving, "_upload", sometimes)
    monkeypatch.setattr(saving.time, "sleep", lambda seconds: None)
    assert save("memory://busy/run", 1, {"student": engine()}, {}, 1) == []
    found = checkpoint.latest("memory://busy/run")
    assert found is not None and found.step == 1


@pytest.mark.parametrize(
    "error", [storage.StoreError("cannot write s3://b/run: b refuses"), OSError(28, "No space left on device")]
)
def test_what_cannot_be_written_is_logged_and_earlier_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = str(tmp_path)
    assert save(run, 1, {"student": engine()}, {}, 1) == []
    write = torch.save

    def full(content: Any, path: Any) -> None:
        write(content, path)
        if "worker" in str(path):
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        lines = save(run, 2, {"student": engine()}, {}, 1, patience=0.0)
    assert (
        len(lines) == 1
        and lines[0].startswith("the checkpoint of step 2 could not be written (")
        and lines[0].endswith("training continues, earlier ones are kept")
    )
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert save(run, 3, {"student": engine()}, {}, 1) == []
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000003"]


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step, ssim in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.6), (5, 0.8)):
        save(str(tmp_path), step, {}, {}, 2, {"ssim": ssim, "l1": ssim}, keep_best="ssim")
    assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    save(str(tmp_path), 6, {}, {}, 1, {"l1": 0.1}, keep_best="l1")  # lower is better
    save(str(tmp_path), 7, {}, {}, 1, {"l1": 0.3}, keep_best="l1")
    assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]


def test_one_that_was_cut_off_goes_when_a_newer_one_is_whole_and_counts_for_none(tmp_path: Path) -> None:
    save(str(tmp_path), 1, {}, {}, 2)
    save(str(tmp_path), 2, {}, {}, 2)
    (tmp_path / "checkpoints" / "step-00000002" / "attempt-0002" / "manifest.json").unlink()
    save(str(tmp_path), 3, {}, {}, 2)
    assert sorted(p.name[-1] for p in (tmp_path / "checkpoints").iterdir()) == ["1", "3"]


def test_foreign_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    save(str(tmp_path), 1, {}, {}, 1)
    found = checkpoint.latest(str(tmp_path))
    assert found is not None
    evil: Any = {"state": {"x": nn.Linear(1, 1)}, "random": {}}
    torch.save(evil, Path(found.uri) / "worker-00000.pt")
    digest = hashlib.sha256((Path(found.uri) / "worker-00000.pt").read_bytes()).hexdigest()
    found = replace(found, sha256={"worker-00000.pt": digest})
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(found, {})
