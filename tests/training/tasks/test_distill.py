"""Distillation against values worked out by hand: the student's outputs are given, its networks do not run."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from s2v_ray import shards, storage
from s2v_ray.clip import ClipBatch
from s2v_ray.config import Recipe
from s2v_ray.metrics.probe import Probe
from s2v_ray.models.bundle import load_bundle
from s2v_ray.models.student import Student, StudentOutput
from s2v_ray.models.teachers import ConvFace, save_conv
from s2v_ray.training.engine import Engine, EngineConfig, OptimizerConfig, copy_to_cpu, make_engine
from s2v_ray.training.tasks import distill
from s2v_ray.training.tasks.context import TaskContext
from s2v_ray.training.tasks.distill import ClipLabel, Codes, DistillTask, Terms, clip_terms, collapse_indicators
from tests.helpers.devices import ACCELERATOR, watched
from tests.helpers.plain_engine import make_plain_engine
from tests.helpers.recipes import tiny_recipe
from tests.helpers.tasks import EMOTIONS, IDENTITY, SPEECH, make_batch, make_context, task_recipe
from tests.helpers.tiny_corpus import make_corpus

ENGINE = functools.partial(make_plain_engine, config=EngineConfig(micro_batch=2, grad_clip=1.0))
RECIPE = task_recipe()  # distill.steps 10


def unit(*positions: int) -> Tensor:
    """Identity codes: a unit vector for each clip."""
    return torch.eye(IDENTITY)[list(positions)]


def logits(*emotions: int) -> Tensor:
    return 5 * torch.eye(len(EMOTIONS))[list(emotions)]


def output_of(identity: Tensor, emotion_logits: Tensor, emotion: Sequence[Sequence[float]] = ()) -> StudentOutput:
    codes = torch.tensor(emotion) if emotion else torch.zeros(len(identity), 4)
    frames = torch.zeros(len(identity), SPEECH, len(EMOTIONS))
    tensors = (identity, codes, emotion_logits, frames, torch.zeros(len(identity), SPEECH, 8))
    return StudentOutput(*(tensor.clone().requires_grad_() for tensor in tensors))


def batch_of(identity: Tensor, emotion: Tensor, ids: Sequence[str] = ()) -> ClipBatch:
    """The teachers' outputs: the same logits in each frame, and others where there is no speech."""
    frames = emotion[:, None].repeat(1, SPEECH, 1)
    frames[1, SPEECH - 1] = 1000.0 * torch.arange(len(EMOTIONS))  # the second clip has no speech there
    return replace(make_batch(0, 0), identity=identity, emotion=frames, ids=list(ids))


class ScriptedStudent(Student):
    """Returns prepared outputs."""

    script: list[StudentOutput]

    def forward(self, *_: Any, **__: Any) -> StudentOutput:
        return self.script.pop(0)


def task_of(
    *script: StudentOutput, labels: dict[str, ClipLabel] | None = None, recipe: Recipe = RECIPE
) -> tuple[DistillTask, ScriptedStudent]:
    torch.manual_seed(0)
    student = ScriptedStudent(recipe.student, IDENTITY, EMOTIONS)
    student.script = list(script)
    return DistillTask(make_context(recipe, ENGINE, 0), student, {"corpus": "c"}, labels), student


def terms_of(output: StudentOutput, batch: ClipBatch, recipe: Recipe = RECIPE) -> Terms:
    task, _ = task_of(recipe=recipe)
    return clip_terms(output, batch, recipe) | task._terms_between_clips(Codes.of(output, batch), ramp=0.0)


def test_a_student_that_equals_its_teachers_has_no_loss() -> None:
    terms = terms_of(output_of(unit(0, 1), logits(2, 1)), batch_of(unit(0, 1), logits(2, 1)))
    compared = {name: terms[name] for name in ("emotion", "identity", "contrast")}
    assert {name: weight for name, (weight, _) in compared.items()} == {
        "emotion": 1.0,
        "identity": 1.0,
        "contrast": 0.5,
    }
    assert all(term.item() == pytest.approx(0.0, abs=1e-6) for _, term in compared.values())


def test_the_terms_are_those_of_the_formulas() -> None:
    recipe = tiny_recipe(distill={"temperature": 2.0, "contrast_temperature": 0.5})
    teacher = torch.tensor([[2 * math.log(3), 0.0, -1e4]] * 2)  # at temperature 2: 3/4, 1/4, 0
    student = torch.tensor([[0.0, 0.0, -1e4]] * 2)  # 1/2, 1/2, 0
    terms = terms_of(output_of(unit(1, 0), student), batch_of(unit(0, 1), teacher), recipe)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert terms["emotion"][1].item() == pytest.approx(2**2 * divergence, rel=1e-4)
    assert terms["identity"][1].item() == pytest.approx(1.0)  # orthogonal codes
    assert terms["contrast"][1].item() == pytest.approx(2 * math.tanh(1.0), rel=1e-4)  # softmax (2, 0) against (0, 2)


def test_collapse_is_measured_for_student_and_teachers() -> None:
    found = collapse_indicators(Codes.of(output_of(unit(3, 3), logits(1, 1)), batch_of(unit(0, 1), logits(2, 1))))
    assert {name: float(value) for name, value in found.items()} == {
        "identity_similarity": 1.0,
        "identity_similarity_teacher": 0.0,
        "emotion_majority": 1.0,
        "emotion_majority_teacher": 0.5,
    }


@pytest.mark.parametrize(("step", "ramp"), [(0, 0.0), (1, 1 / 3), (3, 1.0), (9, 1.0)])
def test_the_disentangling_terms_grow_over_the_first_three_tenths_of_the_steps(step: int, ramp: float) -> None:
    emotion = [[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.25]]
    task, _ = task_of(output_of(unit(0, 2), logits(0, 1), emotion))
    found = {name: float(value) for name, value in task.step(batch_of(unit(0, 1), logits(0, 2)), step).items()}
    assert found["emotion_in_identity"] > 0.01 and found["identity_in_emotion"] > 0.01
    disentangling = 2.0 * found["emotion_in_identity"] + 0.1 * found["identity_in_emotion"]
    expected = found["emotion"] + found["identity"] + 0.5 * found["contrast"] + ramp * disentangling
    assert found["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_is_set_in_each_step() -> None:
    task, _ = task_of(output_of(unit(0, 2), logits(0, 1)))
    task.step(batch_of(unit(0, 1), logits(0, 2)), 4)
    (group,) = task.engine.optimizer.param_groups  # type: ignore[attr-defined]  # of the plain engine
    assert group["lr"] == pytest.approx(RECIPE.distill.lr * 5 / 50)  # step 4 of a warm-up of 50


def test_identity_and_emotion_encoders_are_trained_and_content_is_not() -> None:
    task, student = task_of()
    (group,) = task.engine.optimizer.param_groups  # type: ignore[attr-defined]  # of the plain engine
    trained = {id(p) for p in group["params"]}
    assert trained == {id(p) for p in (*student.identity.parameters(), *student.emotion.parameters())}
    assert not any(p.requires_grad for p in (*student.content.parameters(), *student.content_out.parameters()))


def test_each_emotion_has_a_running_mean_code() -> None:
    first = output_of(unit(0, 2), logits(0, 1), [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    second = output_of(unit(0, 2), logits(0, 1), [[0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    task, student = task_of(first, second)
    task.step(batch_of(unit(0, 1), logits(2, 2)), 0)  # both clips have emotion 2
    assert student.emotion_codes.tolist() == [[0.0] * 4, [0.0] * 4, [0.5, 0.5, 0.0, 0.0]]
    task.step(batch_of(unit(0, 1), logits(2, 0)), 1)
    expected = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0] * 4, [0.495, 0.495, 0.01, 0.0]])  # 0.99 of the old code
    torch.testing.assert_close(student.emotion_codes, expected)


def test_validation_averages_agreement_over_all_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "linear_probe", lambda *_: None)
    outputs = output_of(unit(0, 5), logits(2, 1)), output_of(unit(3, 4), logits(1, 1))
    task, student = task_of(*outputs)
    batches = batch_of(unit(0, 1), logits(2, 1), ["a", "b"]), batch_of(unit(3, 4), logits(0, 2), ["c", "d"])
    assert task.validate(batches) == {"identity_cosine": 0.75, "emotion_agreement": 0.5}
    assert student.training, "training continues after a validation"


def test_leaks_are_measured_once_for_each_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[Any] = []

    def probe(codes: Any, labels: list[str], groups: list[str]) -> Probe | None:
        probed.append((codes.argmax(1).tolist(), labels, groups))
        return Probe(0.75, 0.5, 2, 2) if len(probed) == 1 else None

    monkeypatch.setattr(distill, "linear_probe", probe)
    emotion = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    outputs = output_of(unit(0, 5), logits(0, 0), emotion), output_of(unit(5, 0), logits(0, 0), emotion[::-1])
    labels = {"a": ClipLabel("ann", "s1"), "b": ClipLabel("bob", "")}
    task, _ = task_of(*outputs, labels=labels)
    found = task.validate(
        [batch_of(unit(0, 1), logits(2, 1), ["b", "a"]), batch_of(unit(1, 0), logits(1, 2), ["a", "b"])]
    )
    assert probed == [
        ([5, 0], ["1", "2"], ["s1", "b"]),  # emotion from the identity code; a clip without a sentence is its own group
        ([3, 0], ["ann", "bob"], ["s1", "b"]),  # speaker from the emotion code
    ]
    assert found["leak_emotion"] == 0.75 and "leak_identity" not in found


def test_a_restored_task_has_the_same_codes_and_covariances() -> None:
    emotion = [[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.25]]
    task, _ = task_of(output_of(unit(0, 2), logits(0, 1), emotion))
    task.step(batch_of(unit(0, 1), logits(0, 2)), 0)
    other, _ = task_of()
    assert not other.state()["emotion_codes"].any() and other.state()["emotion_in_identity"] is None
    other.load_state(task.state())
    assert task.state()["emotion_codes"].any()
    torch.testing.assert_close(other.state(), task.state(), rtol=0, atol=0)


def accelerated_task() -> DistillTask:
    def engine(module: Any, groups: Any, optimizer: OptimizerConfig, **sharding: Any) -> Engine:
        config = EngineConfig(micro_batch=2, grad_clip=1.0)
        return make_engine(module, groups, replace(optimizer, fused=False), config, **sharding)

    with ACCELERATOR:
        student = Student(RECIPE.student, IDENTITY, EMOTIONS)
    return DistillTask(replace(make_context(RECIPE, engine, 0), device=ACCELERATOR), student, {})


def test_a_step_on_an_accelerator_waits_for_it_once() -> None:
    """For the check that the losses are finite, which also keeps the host from running far ahead."""
    task, batch = accelerated_task(), make_batch(0, 0)
    for step in range(2):
        with watched() as watch:
            scalars = task.step(batch.to(ACCELERATOR), step)
        assert watch.synchronizations == ["aten._local_scalar_dense.default"]
    assert {torch.as_tensor(value).device for value in scalars.values()} == {ACCELERATOR}


def test_a_task_on_an_accelerator_is_restored_from_a_state_on_the_cpu() -> None:
    task, other = accelerated_task(), accelerated_task()
    with watched():
        task.step(make_batch(0, 0).to(ACCELERATOR), 0)
        state = copy_to_cpu(task.state())
        assert {value.device.type for value in state.values()} == {"cpu"}
        other.load_state(state)
        other.step(make_batch(0, 1).to(ACCELERATOR), 1)


def test_only_the_first_worker_exports_a_bundle(tmp_path: Path) -> None:
    student = Student(RECIPE.student, IDENTITY, EMOTIONS)
    corpus, run = make_corpus(str(tmp_path / "corpus"), clips=2, val=2), str(tmp_path / "run")
    for rank in (1, 0):
        assert not storage.exists(storage.join(run, "bundle"))
        context = replace(make_context(RECIPE, ENGINE, rank), corpus=corpus)
        DistillTask(context, student, {"corpus": "c"}).export(run, {"m": 0.5})
    loaded, card = load_bundle(storage.join(run, "bundle"), "student")
    assert card["lineage"] == {"corpus": "c"} and card["metrics"] == {"m": 0.5}
    assert card["corpus"]["splits"]["train"] == {"clips": 2}
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_task_is_made_from_the_teachers_and_labels_of_a_corpus(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path), clips=2, val=2)
    common = {"height": 32, "width": 32, "alignment": "box", "channels": 4}
    save_conv(storage.join(corpus, "teachers", "identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    emotion = storage.join(corpus, "teachers", "emotion")
    save_conv(emotion, ConvFace(4, 3), role="emotion", dim=3, labels=EMOTIONS, **common)
    task = distill.make_task(TaskContext(RECIPE, corpus, ENGINE, torch.device("cpu")))
    student = task.engine.module
    assert student.identity_dim == 6 and tuple(student.emotions) == EMOTIONS
    val = [row for uri in shards.shard_uris(corpus, "val") for row in shards.read_shard(uri, ["id"])]
    assert set(task.labels) == {row["id"] for row in val} == {"clip0002", "clip0003"}
    assert task.labels["clip0003"] == ClipLabel("speaker3", "s3")
    assert task.lineage["config_digest"] == RECIPE.digest() and set(task.lineage["teachers"]) == {"identity", "emotion"}


@pytest.mark.parametrize("changes", [{"student": "runs/student"}, {"reference": True}])
def test_neither_a_student_nor_the_reference_baseline_can_be_distilled(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="neither a student nor reference"):
        distill.make_task(replace(make_context(RECIPE, ENGINE, 0), **changes))
