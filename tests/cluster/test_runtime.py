from __future__ import annotations

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
