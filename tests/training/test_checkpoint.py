"""Checkpoints are whole or passed over; a resumed run is the run that was not cut off."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, os.path.dirname(__file__))
from plain_engine import PlainEngine, make_plain_engine  # noqa: E402

from s2v_ray import storage  # noqa: E402
from s2v_ray.training import checkpoint  # noqa: E402


def engine() -> PlainEngine:
    module = nn.Linear(3, 2)
    groups = [{"params": module.parameters()}]
    return make_plain_engine(module, groups, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, zero_stage=0, bf16=False, grad_clip=0.0, micro_batch=1, world_size=1)


def train(e: PlainEngine) -> None:
    e.backward(e(torch.randn(4, 3)).square().mean() * random.random() * np.random.rand())
    e.step()


def test_random_generators_weights_and_state_continue(tmp_path: Path) -> None:
    e = engine()
    train(e)
    checkpoint.save(str(tmp_path), 1, {"student": e}, {"ema": {"w": torch.ones(2)}, "seen": 7}, keep=2)
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
        checkpoint.save(str(tmp_path), step, {"student": engine()}, {}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000010", "step-00001500"]


@pytest.mark.parametrize("harm", ["flip", "cut", "no manifest", "no file"])
def test_damage_is_told_and_the_one_before_is_used(tmp_path: Path, harm: str) -> None:
    for step in (1, 2):
        checkpoint.save(str(tmp_path), step, {"student": engine()}, {}, keep=5)
    folder = tmp_path / "checkpoints" / "step-00000002"
    victim = folder / ("manifest.json" if harm == "no manifest" else "student/rank0.pt")
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        victim.write_bytes(bytes(data))
    elif harm == "cut":
        victim.write_bytes(bytes(data[:-1]))
    else:
        victim.unlink()
    told: list[str] = []
    found = checkpoint.latest(str(tmp_path), told.append)
    assert found is not None and found.step == 1
    assert len(told) == 1 and told[0].startswith("checkpoint of step 2 passed over: ")


def test_nothing_there() -> None:
    assert checkpoint.latest("memory://nowhere") is None


def test_any_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    run = "memory://bucket/run"
    checkpoint.save(run, 3, {"student": engine()}, {"x": 1}, keep=1)
    checkpoint.save(run, 4, {"student": (e := engine())}, {"x": 2}, keep=1)
    found = checkpoint.latest(run)
    assert found is not None and found.step == 4
    other = engine()
    assert checkpoint.load(found, {"student": other})["x"] == 2
    torch.testing.assert_close(other.module.state_dict(), e.module.state_dict())


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="made by 4 workers, not by 1: set parallel.workers=4"):
        checkpoint.load(checkpoint.Checkpoint(str(tmp_path), 1, 4), {})


def test_foreign_code_in_a_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path), 1, {}, {}, keep=1)
    found = checkpoint.latest(str(tmp_path))
    assert found is not None
    evil: Any = {"state": {"x": nn.Linear(1, 1)}, "random": {}}
    torch.save(evil, Path(found.uri) / "worker-00000.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(found, {})
