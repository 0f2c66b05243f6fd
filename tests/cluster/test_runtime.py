from __future__ import annotations

import os
from typing import Any

import pytest

from s2v_ray.cluster import runtime
from s2v_ray.cluster.runtime import node_selector


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([{"Alive": True, "Labels": {"ray.io/node-id": "a"}}], None),
        (
            [{"Alive": True, "Labels": {"s2v-role": "driver"}}],
            {"s2v-role": "ingest"},
        ),  # the cluster may still have to add a node of the role
        ([{"Alive": False, "Labels": {"s2v-role": "driver"}}, {"Alive": True, "Labels": {}}], None),
    ],
)
def test_work_selects_nodes_of_its_role_if_nodes_have_roles(
    nodes: list[dict[str, object]], expected: dict[str, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.ray, "nodes", lambda: nodes)
    assert node_selector("ingest") == expected


def test_the_job_is_named_by_the_variable_of_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert runtime.job_id() == ""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "s2v-7"}}')
    assert runtime.job_id() == "s2v-7"


@pytest.mark.parametrize(("address", "watcher"), [("", "0"), ("10.0.0.1:6379", None)])
def test_only_a_ray_of_this_machine_is_without_a_watcher_for_lost_machines(
    address: str, watcher: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(runtime.ray, "init", lambda **options: started.append(options))
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    runtime.start_ray()
    assert os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") == watcher
    (options,) = started
    assert options.get("address") == (None if address else "local")
    os.environ.pop("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", None)


def test_a_ray_that_runs_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(runtime.ray, "init", lambda **options: pytest.fail("another Ray was started"))
    runtime.start_ray()


def test_a_start_that_takes_too_long_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def init(**_: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(runtime.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(runtime.ray, "init", init)
    monkeypatch.setattr(runtime.ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    runtime.start_ray()
    assert len(tries) == 3
