"""Sweeps of a few trials, made without training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from s2v_ray import storage
from s2v_ray.config import Recipe
from s2v_ray.models.bundle import save_bundle
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.student import Student
from s2v_ray.training.launch import StoppedError
from s2v_ray.training.runs import RunSpec
from s2v_ray.tuning import sweep as module
from s2v_ray.tuning import trial_run
from s2v_ray.tuning.space import parse_space, trial_recipe
from s2v_ray.tuning.trials import Segment, Sweep, Trial, claim_sweep
from tests.helpers.recipes import debug_recipe
from tests.helpers.tiny_corpus import EMOTIONS, make_corpus

PARAMETERS: dict[str, Any] = {
    "gan.lr": {"distribution": "loguniform", "low": 0.0001, "high": 0.01},
    "gan.discriminators.frame.interval": {"distribution": "choice", "values": [1, 2, 4]},
    "gan.discriminators.frame.start": {"distribution": "int", "low": 0.0, "high": 0.5, "of": "gan.steps"},
}


def sweep_recipe() -> Recipe:
    """The recipe ``debug`` without the sync network, which the tiny corpus does not have."""
    return debug_recipe("gan.discriminators.sync.weight=0", "log.log_every=3", "parallel.threads=1")


def make_parents(folder: str) -> tuple[str, str]:
    """A corpus and a student that never learned anything."""
    corpus, student = make_corpus(storage.join(folder, "corpus"), clips=16), storage.join(folder, "student")
    torch.manual_seed(0)
    save_bundle(student, Student(sweep_recipe().student, 6, EMOTIONS), sweep_recipe(), "student", {"corpus": "c"}, {})
    return corpus, student


def make_sweep(folder: str, **fields: Any) -> Sweep:
    """A fresh sweep without trials."""
    corpus, student = make_parents(folder)
    space = parse_space(
        {"objectives": ["mouth_l1", "psnr"], "parameters": PARAMETERS, "validations": 4, **fields}, sweep_recipe()
    )
    return claim_sweep(storage.join(folder, "sweep"), space, sweep_recipe(), corpus, student, False)


def add_trial(
    sweep: Sweep, number: int, curve: list[tuple[int, float, float]], state: str = "finished", reason: str = ""
) -> Trial:
    """A trial with one segment: (step, mouth_l1, psnr) of each validation; with a bundle if it finished."""
    params = {
        "gan.lr": 0.001 * (number + 1),
        "gan.discriminators.frame.interval": 2,
        "gan.discriminators.frame.start": number,
    }
    trial = Trial(number, params, state, reason)  # type: ignore[arg-type]
    trial.started()
    for step, mouth, psnr in curve:
        trial.add_point({"step": step, "segment": 0, "start": 0, "at": 0.0, "mouth_l1": mouth, "psnr": psnr})
    sweep.write(trial)
    sweep.write_segments(number, [Segment("run-0", params)])
    if state == "finished":
        torch.manual_seed(number)
        recipe = trial_recipe(sweep.space, sweep.recipe, params)
        bundle = storage.join(sweep.folder(number), "run-0", "bundle")
        save_bundle(
            bundle,
            Speech2Video(recipe, 6, EMOTIONS),
            recipe,
            "speech2video",
            {"corpus": "c", "config_digest": recipe.digest()},
            {"l1": 0.5},
        )
    return trial


def make_exploited_sweep(folder: str) -> Sweep:
    """A sweep of seven trials: the last one continued from trial 1's checkpoint at step 6, and is the best."""
    made = make_sweep(folder)
    for n in range(5):
        add_trial(made, n, [(3, 0.5, 9.0), (6, 0.4 - 0.01 * n, 10.0 + n), (12, 0.3 - 0.01 * n, 10.5)])
    add_trial(made, 5, [(3, 0.9, 5.0)], "stopped", "worse than others (asha)")
    last = add_trial(made, 6, [(3, 0.8, 5.0), (6, 0.7, 5.5)])
    new = {**last.params, "gan.lr": 0.0025, "gan.discriminators.frame.interval": 1}
    checkpoint = storage.join(made.folder(1), "run-0", "checkpoints", "step-00000006")
    made.write_segments(6, [Segment("run-0", last.params), Segment("run-1", new, checkpoint, 1, 6)])
    last.add_point({"step": 12, "segment": 1, "start": 6, "at": 0.0, "mouth_l1": 0.1, "psnr": 20.0})
    made.write(last)
    trial = Path(made.folder(6))
    (trial / "run-1").mkdir(parents=True)
    (trial / "run-0" / "bundle").rename(trial / "run-1" / "bundle")
    return made


class FakeTrainable(module.Trainable):
    """A trial whose run is a fake: its L1 is the distance of gan.lr from 0.001, and falls with the steps."""

    def setup(self, config: dict[str, Any]) -> None:
        super().setup(config)
        trial_run.launch = fake_launch


def fake_launch(spec: RunSpec, *, on_record: Callable[[dict[str, Any]], bool], **settings: Any) -> None:
    """Validates and checkpoints as the recipe says, continues from existing checkpoints, and writes a bundle."""
    recipe, run, begin_from = spec.recipe, spec.run, spec.begin_from
    own = storage.list_files(storage.join(run, "checkpoints"))
    start = max((int(uri[-8:]) for uri in own), default=int(begin_from[-8:]) if begin_from else 0)
    if begin_from:
        assert storage.exists(begin_from), "the checkpoint to begin from is there when it is needed"
    every, steps = recipe.log.validate_every, recipe.gan.steps
    for step in range(start + every, steps + 1, every):
        storage.write_bytes(storage.join(run, "checkpoints", f"step-{step:08d}"), b"")
        l1 = abs(math.log10(recipe.gan.lr) + 3) + 1 / step
        if not on_record({"step": step, "val_mouth_l1": l1, "val_psnr": 10.0}):
            raise StoppedError("stopped")
    save_bundle(storage.join(run, "bundle"), Speech2Video(recipe, 6, EMOTIONS), recipe, "speech2video", {}, {})
