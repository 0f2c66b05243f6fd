from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch

from s2v_ray.training.engine import make_engine
from s2v_ray.training.tasks.context import TaskContext
from tests.helpers.recipes import tiny_recipe


def context() -> TaskContext:
    return TaskContext(tiny_recipe(), "corpus", make_engine, torch.device("cpu"))


def test_the_defaults_are_the_first_worker_without_a_student() -> None:
    made = context()
    assert (made.rank, made.student, made.reference) == (0, None, False)


def test_a_task_cannot_change_its_context() -> None:
    with pytest.raises(FrozenInstanceError):
        context().rank = 1  # type: ignore[misc]  # this is what the test is about


def test_a_context_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(context())) == context()
