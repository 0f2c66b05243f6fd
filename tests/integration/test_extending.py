"""Extensions from outside the package, each one module (in tests/plugins) and the recipe: a discriminator, a logger and
a searcher.

The page "extending" describes these steps. A source and a metric from outside are tested in
tests/ingest/test_sources.py and tests/evaluation/test_evaluate.py.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from s2v_ray import cli, storage
from s2v_ray.config import load_recipe
from s2v_ray.models.speech2video import Speech2Video
from s2v_ray.models.teachers import ConvFace, save_conv
from s2v_ray.training.engine import EngineConfig
from s2v_ray.training.loggers import LOGGERS
from s2v_ray.training.tasks.adversaries import ADVERSARIES, Adversaries
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.gan import GanTask
from s2v_ray.tuning.search import suggest
from s2v_ray.tuning.searchers import SEARCHERS
from s2v_ray.tuning.space import parse_space
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.tasks import BATCH, IDENTITY, make_batch, task_recipe
from tests.helpers.tiny_corpus import EMOTIONS, make_corpus


@pytest.fixture(autouse=True)
def _known_extensions() -> Iterator[None]:
    """What the modules in tests/plugins register is removed afterwards."""
    tables = (ADVERSARIES, LOGGERS, SEARCHERS)
    before = [dict(table) for table in tables]
    yield
    for table, known in zip(tables, before, strict=True):
        table.clear()
        table.update(known)  # type: ignore[arg-type]  # three tables of different types
    for name in ("colour_plugin", "line_plugin", "search_plugin"):
        sys.modules.pop(name, None)


def test_a_discriminator_from_outside_trains_and_is_trained_against(tmp_path: Path) -> None:
    data = task_recipe(0).model_dump(mode="json")
    data["plugins"] = ["colour_plugin"]
    data["gan"]["discriminators"]["extra"] = {"colour": {"weight": 0.1, "lr": 1e-3}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(data))
    settings = load_recipe(str(tmp_path / "recipe.yaml"))
    torch.manual_seed(0)
    adversaries = Adversaries(settings, IDENTITY, len(EMOTIONS))
    engine = functools.partial(make_plain_engine, config=EngineConfig(micro_batch=BATCH, grad_clip=1.0))
    context = TaskContext(settings, "", engine, torch.device("cpu"))
    task = GanTask(context, Speech2Video(settings, IDENTITY, EMOTIONS), adversaries, {})
    before = adversaries.members["colour"].network.weight.detach().clone()
    scalars = [task.step(make_batch(0, step), step) for step in range(2)]
    assert all({"d_colour", "g_colour"} <= set(s) for s in scalars)
    assert not torch.equal(adversaries.members["colour"].network.weight, before)
    assert "colour_saturated" in [alarm.name for alarm in task.alarms]


def test_a_searcher_from_outside_chooses_the_values() -> None:
    settings = load_recipe("debug", ["plugins=[search_plugin]"])
    lr = {"gan.lr": {"distribution": "uniform", "low": 0.001, "high": 0.003}}
    space = parse_space({"searcher": "sweep_up", "trials": 3, "objectives": ["l1"], "parameters": lr}, settings)
    found = [suggest(space, settings, [], number)["gan.lr"] for number in range(3)]
    assert found == pytest.approx([0.001, 0.002, 0.003])


@pytest.mark.slow
@pytest.mark.cluster
def test_a_logger_from_outside_gets_every_record_on_a_worker(tmp_path: Path) -> None:
    """Through the command line, with the module on PYTHONPATH, as a user would."""
    corpus = make_corpus(str(tmp_path / "corpus"), clips=16)
    common = {"height": 32, "width": 32, "alignment": "box", "channels": 4}
    save_conv(storage.join(corpus, "teachers", "identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    labels = {"role": "emotion", "dim": 3, "labels": EMOTIONS}
    save_conv(storage.join(corpus, "teachers", "emotion"), ConvFace(4, 3), **labels, **common)
    overrides = [
        "plugins=[line_plugin]",
        "log.loggers=[lines]",
        "distill.steps=6",
        "distill.batch=4",
        "log.log_every=2",
        "parallel.threads=1",
    ]
    words = [word for override in overrides for word in ("--set", override)]
    assert cli.main(["distill", corpus, str(tmp_path / "run"), "--recipe", "debug", *words]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "lines.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [*metrics, "closed"]
    assert not (tmp_path / "run" / "tensorboard").exists()
