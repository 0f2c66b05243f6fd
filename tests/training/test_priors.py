"""The takes and the motion that a bundle keeps of training clips."""

from __future__ import annotations

from pathlib import Path

import torch

from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.priors import fill_priors
from tests.helpers.tasks import EMOTIONS, IDENTITY, task_recipe
from tests.helpers.tiny_corpus import make_corpus


def test_takes_and_motion_are_those_of_training_clips(tmp_path: Path) -> None:
    corpus, settings = make_corpus(str(tmp_path)), task_recipe(0)
    model = Speech2Video(settings, IDENTITY, EMOTIONS).eval()
    fill_priors(model, corpus, settings, torch.device("cpu"))
    clips = int(model.take_prior.stored)
    lengths = model.motion_prior.lengths
    assert clips == int((lengths > 0).sum()) > 4 and set(lengths[:clips].tolist()) == {20, 30, 45}
    assert model.motion_prior.trajectories[0, : lengths[0]].mean(0).abs().max() < 1e-5
    norms = model.take_prior.identities[:clips].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(clips))
    assert len(model.take_prior.means[:clips].unique(dim=0)) == clips, "every clip has a take of its own"
