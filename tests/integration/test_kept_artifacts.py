"""Artifacts of earlier versions are opened by this one (``tests.helpers.kept_artifacts`` made them)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from s2v_ray import shards, storage
from s2v_ray.evaluation.user_study import read_plan, trials_of
from s2v_ray.split_index import read_index
from s2v_ray.training import checkpoint
from s2v_ray.training.data.ray_stream import StreamConfig, stream
from s2v_ray.tuning.report import format_table
from s2v_ray.tuning.trials import open_sweep
from tests.helpers.kept_artifacts import EXPECTED, engine, generated, sharded

ARTIFACTS = Path(__file__).parents[1] / "artifacts"


@pytest.fixture(params=sorted(folder.name for folder in ARTIFACTS.iterdir()))
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy, so that a test cannot change them."""
    return Path(shutil.copytree(ARTIFACTS / request.param, tmp_path / "kept"))


def test_a_corpus(kept: Path) -> None:
    corpus = str(kept / "corpus")
    assert [len(clip.frames) for clip in shards.read_clips(corpus, "train")] == [6, 9, 6, 9]
    config = StreamConfig(read_index(corpus, "train"), 2, 5, 6, seed=0, steps=2, executor="local")
    batches = list(stream(config))
    assert sorted(i for batch in batches for i in batch.ids) == [f"clip{n:04d}" for n in range(4)]
    assert batches[0].identity is not None and batches[0].emotion is not None


def test_a_bundle(kept: Path) -> None:
    expected = storage.read_json(str(kept / EXPECTED))["frame_means"]
    np.testing.assert_allclose(generated(str(kept / "bundle")).mean((1, 2)), expected, atol=0.5)


def test_a_checkpoint(kept: Path) -> None:
    torch.manual_seed(5)
    made = engine()
    found = checkpoint.latest(str(kept / "run"))
    assert found is not None and found.step == 7
    assert checkpoint.load(found, sharded(made)) == {"gradient_squares": {"frame": 0.25}}
    expected = storage.read_json(str(kept / EXPECTED))["weights"]
    assert {name: value.tolist() for name, value in made.module.state_dict().items()} == expected


def test_a_sweep(kept: Path) -> None:
    sweep = open_sweep(str(kept / "sweep"))
    first, second = sweep.trials()
    assert (first.state, first.reason, second.state) == ("stopped", "worse than others (asha)", "running")
    assert "0.25" in format_table(sweep)


def test_a_study(kept: Path) -> None:
    plan = read_plan(str(kept / "study"))
    assert len(plan.items) == 6 and len(trials_of(plan, "00ff")) == 9 + 6 + 2
