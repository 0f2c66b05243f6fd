"""What experiment trackers cost a training step.

    python -m tests.bench.bench_trackers [--recipe demo] [--rounds 6] [--steps 50] [--json PATH]

The GAN step of the recipe on one thread, with the loggers tensorboard, mlflow (its store of files, or the server at
MLFLOW_TRACKING_URI) and wandb (offline), and without any. Records and samples are logged as often as in training: a
record each ``log.log_every`` steps, samples once in a round. Rounds take turns; the bar is the median of their ratios.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time

import numpy as np
import torch

from s2v_ray import storage
from s2v_ray.config import Recipe, load_recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.training.engine import EngineConfig, make_engine
from s2v_ray.training.loggers import RunLoggers, Sample
from s2v_ray.training.runs import RUN_SCHEMA
from s2v_ray.training.tasks.adversaries import Adversaries
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.gan import GanTask
from tests.bench.bench_step import EMOTIONS, IDENTITY, batch_of
from tests.helpers.results import write_result

TRACKERS = ("tensorboard", "mlflow", "wandb")
BAR = 1.01
SAMPLE_FRAMES = 75


def make_task(recipe: Recipe) -> GanTask:
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    factory = functools.partial(
        make_engine, config=EngineConfig(micro_batch=recipe.gan.batch, grad_clip=recipe.parallel.grad_clip)
    )
    model, judges = Speech2Video(recipe, IDENTITY, EMOTIONS), Adversaries(recipe, IDENTITY, len(EMOTIONS))
    return GanTask(TaskContext(recipe, "", factory, cpu), model, judges, {})


def sample(size: int) -> Sample:
    frames = np.random.default_rng(0).integers(0, 255, (SAMPLE_FRAMES, size, size, 3), dtype=np.uint8)
    return Sample("clip", frames, frames, np.zeros(SAMPLE_FRAMES * 640, np.float32))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe, ["parallel.workers=1"])
    task, batch = make_task(recipe), batch_of(recipe, torch.device("cpu"))
    os.environ.update({"WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true"})
    ratios, seconds = [], []
    with tempfile.TemporaryDirectory(prefix="s2v-bench-") as folder:
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"file://{folder}/mlflow")
        run = storage.join(folder, "run")
        fields = {"task": "gan", "reference": False, "recipe": recipe.model_dump(mode="json"), "config_digest": "bench"}
        storage.write_manifest(run, "run", RUN_SCHEMA, parents={}, **fields)
        loggers = RunLoggers(run, 0, TRACKERS)
        loggers.record({"step": 0, "g_reconstruction": 0.0})  # their first requests

        def one_round(first: int, *, tracked: bool) -> float:
            began = time.perf_counter()
            for step in range(first, first + options.steps):
                scalars = task.step(batch, step)
                if tracked and step % recipe.log.log_every == 0:
                    loggers.record({"step": step, **{name: float(value) for name, value in scalars.items()}})
                if tracked and step == first:
                    loggers.samples(step, [sample(recipe.media.size)])
            return (time.perf_counter() - began) / options.steps

        one_round(1, tracked=True)  # warms up
        for n in range(options.rounds):
            first = 1 + (2 * n + 1) * options.steps
            plain, tracked = one_round(first, tracked=False), one_round(first + options.steps, tracked=True)
            ratios.append(tracked / plain)
            seconds.append(plain)
        loggers.close()
    ratio = statistics.median(ratios)
    shown = ", ".join(f"{r:.3f}" for r in sorted(ratios))
    print(f"seconds of a step with {', '.join(TRACKERS)} / without: {ratio:.3f} (bar: at most {BAR}; rounds {shown})")
    print(f"a step without: {1000 * statistics.median(seconds):.0f} ms")
    if options.json:
        figure = f"seconds of a step with {', '.join(TRACKERS)} / without"
        measured = f"{ratio:.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f}; {statistics.median(seconds):.2f} s)"
        write_result(options.json, [{"figure": figure, "bar": f"at most {BAR}", "measured": measured}])
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
