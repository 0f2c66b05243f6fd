"""Draining a node, with a stand-in for the ray executable."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray.cluster import drain as program
from s2v_ray.cluster.drain import drain, node_id
from tests.helpers.ray_program import NODE, calls, make_ray


def test_the_node_of_an_address_is_drained_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray, slept = make_ray(tmp_path), list[float]()
    monkeypatch.setattr(program.time, "sleep", slept.append)
    assert program.main(["--ray", str(ray), "--address", "10.0.0.7", "--seconds", "30"]) == 0
    asked, drained = calls(ray)
    assert asked[:2] == ["list", "nodes"]
    assert drained[:3] == ["drain-node", "--node-id", NODE]
    assert drained[3:7] == ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "the pod is being deleted"]
    assert 0 < slept[-1] <= int(drained[-1]) + 1 <= 31, "the program waits as long as Ray may take"


def test_what_cannot_be_drained_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ray = make_ray(tmp_path)
    assert program.main(["--ray", str(ray), "--address", "10.0.0.8", "--seconds", "30"]) == 1
    assert "no node 10.0.0.8 that is alive" in capsys.readouterr().err
    ray.with_name("refuse").touch()
    assert program.main(["--ray", str(ray), "--address", "10.0.0.7", "--seconds", "30"]) == 1
    assert f"ray does not drain node {NODE}" in capsys.readouterr().err


def test_without_a_deadline_none_is_passed(tmp_path: Path) -> None:
    ray = make_ray(tmp_path)
    assert drain([str(ray)], NODE, "why", None)
    assert "--deadline-remaining-seconds" not in calls(ray)[0]


def test_an_unknown_node_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no node 10\.0\.0\.8 that is alive"):
        node_id([str(make_ray(tmp_path))], "10.0.0.8")


def test_the_real_ray_accepts_these_arguments() -> None:
    """The options of its command line, without starting it."""
    from ray.scripts.scripts import cli

    known = {option for p in cli.commands["drain-node"].params for option in p.opts}
    assert {"--node-id", "--reason", "--reason-message", "--deadline-remaining-seconds"} <= known
    (reason,) = (p for p in cli.commands["drain-node"].params if p.name == "reason")
    assert "DRAIN_NODE_REASON_PREEMPTION" in reason.type.choices
