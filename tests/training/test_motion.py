"""The motion that a bundle keeps of training clips."""

from __future__ import annotations

from pathlib import Path

import torch

from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.motion import motion_codes
from tests.helpers.tasks import EMOTIONS, IDENTITY, task_recipe
from tests.helpers.tiny_corpus import make_corpus


def test_codes_of_whole_clips_relative_to_their_mean(tmp_path: Path) -> None:
    corpus, settings = make_corpus(str(tmp_path)), task_recipe(0)
    model = Speech2Video(settings, IDENTITY, EMOTIONS).eval()
    codes = motion_codes(model, corpus, settings, torch.device("cpu"))
    assert len(codes) > 4 and {len(c) for c in codes} == {20, 30, 45}
    assert all(c.mean(0).abs().max() < 1e-5 for c in codes)
