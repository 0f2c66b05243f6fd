"""The takes and the motion that a bundle keeps of training clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training import priors
from s2v_ray.training.priors import MAX_GAIN, fill_priors, matching_gain
from tests.helpers.tasks import EMOTIONS, IDENTITY, task_recipe
from tests.helpers.tiny_corpus import make_corpus


def test_takes_and_motion_are_those_of_training_clips(tmp_path: Path) -> None:
    corpus, settings = make_corpus(str(tmp_path), identity_dim=IDENTITY), task_recipe(0)
    model = Speech2Video(settings, IDENTITY, EMOTIONS).eval()
    fill_priors(model, corpus, settings, torch.device("cpu"))
    clips = int(model.take_prior.stored)
    lengths = model.motion_prior.lengths
    assert clips == int((lengths > 0).sum()) > 4 and set(lengths[:clips].tolist()) == {20, 30, 45}
    assert model.motion_prior.trajectories[0, : lengths[0]].mean(0).abs().max() < 1e-5
    codes = torch.eye(IDENTITY)
    stored = model.take_prior.identities[:clips]
    assert all((code == codes).all(1).any() for code in stored), "the teacher's codes of the faces"
    assert len(stored.unique(dim=0)) == IDENTITY
    assert len(model.take_prior.means[:clips].unique(dim=0)) == clips, "every clip has a take of its own"


def test_the_motion_is_scaled_by_one_factor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, settings = make_corpus(str(tmp_path), identity_dim=IDENTITY), task_recipe(0)
    model = Speech2Video(settings, IDENTITY, EMOTIONS).eval()
    seen: list[float] = []
    monkeypatch.setattr(priors, "matching_gain", lambda *values: seen.extend(values) or 1.0)
    fill_priors(model, corpus, settings, torch.device("cpu"))
    once = model.motion_prior.trajectories.clone()
    real, without, moving = seen
    assert real > 0 and without > 0 and moving != without
    monkeypatch.setattr(priors, "matching_gain", lambda *values: 1.5)
    fill_priors(model, corpus, settings, torch.device("cpu"))
    torch.testing.assert_close(model.motion_prior.trajectories, 1.5 * once)


@pytest.mark.parametrize(
    ("real", "without", "moving", "gain"),
    [
        (10.0, 1.0, 5.0, 1.5),  # 1 + 4 * 1.5 ** 2
        (10.0, 1.0, 12.0, 1.0),  # moves enough
        (10.0, 1.0, 1.5, MAX_GAIN),
        (10.0, 1.0, 1.0, 1.0),  # motion without effect
        (10.0, 11.0, 15.0, 1.0),  # noise alone varies more
    ],
)
def test_gain_of_the_motion_by_hand(real: float, without: float, moving: float, gain: float) -> None:
    assert matching_gain(real, without, moving) == pytest.approx(gain)
