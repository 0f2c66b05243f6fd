"""Makes the artifacts in ``tests/artifacts``, which every later version must open.

    python -m tests.helpers.kept_artifacts FOLDER

From the first release on, a new kind or schema gets a new folder, and the older ones stay.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from s2v_ray import storage
from s2v_ray.inference.predictor import Predictor
from s2v_ray.inference.request import GenerationRequest
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.take import KnownTake
from s2v_ray.training import lease, saving
from s2v_ray.training.average import MovingAverage
from s2v_ray.training.engine import EngineConfig, OptimizerConfig
from s2v_ray.training.engine.state import Sharded
from s2v_ray.tuning.space import parse_space
from s2v_ray.tuning.trials import claim_sweep
from tests.helpers import sounds
from tests.helpers.plain_engine import PlainEngine, make_plain_engine
from tests.helpers.recipes import tiny_recipe
from tests.helpers.studies import make_small_study
from tests.helpers.sweeps import PARAMETERS, add_trial, make_parents, sweep_recipe
from tests.helpers.tiny_corpus import make_corpus

EXPECTED = "expected.json"
EMOTIONS, IDENTITY_DIM = ("neutral", "happy"), 4


def engine() -> PlainEngine:
    """Engine of a small network with random weights."""
    module = nn.Linear(3, 2)
    return make_plain_engine(
        module, [{"params": module.parameters()}], OptimizerConfig(0.1, (0.9, 0.99)), EngineConfig()
    )


def sharded(made: PlainEngine) -> dict[str, Sharded]:
    """What its checkpoint contains."""
    return {"generator": made, "average": MovingAverage(made)}


def generated(bundle: str) -> np.ndarray:
    """Frames ``[5, 32, 32, 3]`` of a bundle for fixed speech."""
    return np.concatenate(list(Predictor(bundle).generate(GenerationRequest(sounds.speech(0.2), seed=3))))


def _make_bundle(uri: str) -> None:
    torch.manual_seed(0)
    recipe = tiny_recipe(
        student={"width": 8, "layers": 2, "emotion_dim": 2, "content_dim": 4},
        gan={"generator": {"take_dim": 3, "take_maps": [1], "take_width": 4, "take_clips": 2, "motion_dim": 2}},
    )
    recipe = recipe.model_copy(
        update={
            "gan": recipe.gan.model_copy(
                update={"generator": recipe.gan.generator.model_copy(update={"motion_clips": 2, "motion_frames": 10})}
            )
        }
    )
    model = Speech2Video(recipe, IDENTITY_DIM, EMOTIONS)
    z = model.take_prior.dim
    takes = [KnownTake(torch.eye(IDENTITY_DIM)[n], torch.zeros(2), torch.randn(z), torch.zeros(z)) for n in range(2)]
    model.take_prior.fill(takes)
    model.motion_prior.fill([torch.randn(10, 2) for _ in range(2)])
    save_bundle(uri, model, recipe, "speech2video", {}, {})


def _make_checkpoint(run: str) -> dict[str, Any]:
    torch.manual_seed(1)
    made = engine()
    average = sharded(made)
    made.backward(made(torch.ones(1, 3)).sum())
    made.step()
    saver = saving.Saver(lease.begin_attempt(run, lease.acquire(run)), 1, patience=0.0)
    saver.save(7, average, {"gradient_squares": {"frame": 0.25}})
    saver.wait()
    storage.remove(storage.join(run, "lease.json.lock"))
    return {name: value.tolist() for name, value in made.module.state_dict().items()}


def _make_sweep(uri: str) -> None:
    corpus, student = make_parents("memory://parents")
    fields = {"objectives": ["mouth_l1", "psnr"], "parameters": PARAMETERS, "validations": 4}
    made = claim_sweep(uri, parse_space(fields, sweep_recipe()), sweep_recipe(), corpus, student, False)
    add_trial(made, 0, [(3, 0.5, 9.0), (6, 0.4, 10.0)], "stopped", "worse than others (asha)")
    add_trial(made, 1, [(3, 0.4, 9.5), (12, 0.25, 11.0)], "running")


def make_all(folder: str) -> None:
    """Write all artifacts, and what must be found in them."""
    make_corpus(storage.join(folder, "corpus"), clips=4, per_shard=3, size=16, val=2, lengths=(6, 9))
    _make_bundle(storage.join(folder, "bundle"))
    weights = _make_checkpoint(storage.join(folder, "run"))
    _make_sweep(storage.join(folder, "sweep"))
    make_small_study(Path(folder) / "study")
    frames = generated(storage.join(folder, "bundle"))
    expected = {"weights": weights, "frame_means": frames.mean((1, 2)).round(2).tolist()}
    storage.write_json(storage.join(folder, EXPECTED), expected)


if __name__ == "__main__":
    make_all(storage.absolute(sys.argv[1]))
