"""Runs the stages of ingest on one file, without a cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from s2v_ray.clip import Clip
from s2v_ray.config import Recipe
from s2v_ray.ingest.crop import Process
from s2v_ray.ingest.rejects import Reason, Reject
from s2v_ray.ingest.sources import SourceClip
from tests.helpers.recipes import tiny_recipe

RECIPE = tiny_recipe(media={"smoothing": 0.0}, ingest={"min_face": 16})


def ingest_file(path: Path, recipe: Recipe = RECIPE, ground_truth: str = "") -> list[Clip]:
    """The clips of a file."""
    source = SourceClip(str(path), path.name, "anna", "happy", "hello", ground_truth)
    return [cropped.clip for cropped in Process(recipe).process(source)]


def rejection(path: Path, recipe: Recipe = RECIPE, ground_truth: str = "") -> Reason:
    """The reason for which a file is rejected."""
    with pytest.raises(Reject) as caught:
        ingest_file(path, recipe, ground_truth)
    return caught.value.reason


def onsets(clip: Clip) -> tuple[int, float]:
    """The frame of the flash, and the start of the tone in frames (see ``videos.flash_and_beep``)."""
    return int((clip.frames.mean((1, 2, 3)) > 120).argmax()), int((np.abs(clip.speech) > 0.1).argmax()) / 640
