"""Launching: what a run folder accepts, what a cluster can give, and a whole small distillation on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2v_ray import storage
from s2v_ray.cluster import runtime
from s2v_ray.config import Recipe
from s2v_ray.models.bundle import load_bundle
from s2v_ray.models.teachers import ConvFace, save_conv
from s2v_ray.training import launch as launching
from s2v_ray.training.launch import launch
from s2v_ray.training.runs import RunSpec
from tests.helpers.logs import logged
from tests.helpers.recipes import debug_recipe
from tests.helpers.tiny_corpus import EMOTIONS, make_corpus

SETTINGS = ("distill.steps=6", "distill.batch=4", "log.log_every=2", "log.checkpoint_every=3", "parallel.threads=1")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = make_corpus(str(tmp_path_factory.mktemp("corpus")), clips=16)
    common = {"height": 32, "width": 32, "alignment": "box", "channels": 4}
    save_conv(storage.join(uri, "teachers", "identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    save_conv(
        storage.join(uri, "teachers", "emotion"), ConvFace(4, 3), role="emotion", dim=3, labels=EMOTIONS, **common
    )
    return uri


def recipe(*changes: str) -> Recipe:
    return debug_recipe(*SETTINGS, *changes)


def test_inputs_are_checked_before_anything_starts(tmp_path: Path, corpus: str) -> None:
    with pytest.raises(storage.ArtifactError, match="there is no corpus at"):
        launch(RunSpec("distill", recipe(), str(tmp_path / "nothing"), str(tmp_path / "run")))
    (tmp_path / "file").write_text("")
    with pytest.raises(storage.ArtifactError, match="cannot write to"):
        launch(RunSpec("distill", recipe(), corpus, str(tmp_path / "file" / "run")))
    with pytest.raises(storage.ArtifactError, match="is a corpus, not a bundle"):
        launch(RunSpec("gan", recipe(), corpus, str(tmp_path / "run"), student=corpus))
    assert not (tmp_path / "run").exists()


def node(role: str, **resources: float) -> dict[str, Any]:
    return {"Alive": True, "Labels": {"s2v-role": role}, "Resources": resources}


def test_a_cluster_that_grows_is_asked_for_machines_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [node("driver", CPU=8.0), node("ingest", CPU=64.0, GPU=4.0)]
    asked: list[Any] = []
    looks = iter([few] * 4 + [[*few, node("train", CPU=16.0, GPU=2.0)]] * 2)  # two a look
    monkeypatch.setattr(launching, "GROW_SECONDS", 0.0)
    monkeypatch.setattr(runtime.ray, "nodes", lambda: next(looks))
    monkeypatch.setattr(runtime.ray.autoscaler.sdk, "request_resources", lambda **wanted: asked.append(wanted))
    where = {"s2v-role": "train"}
    growing = recipe("parallel.workers=2", "parallel.gpu=true", "parallel.wait_minutes=1")
    with logged() as lines:
        found = launching._wait_for_nodes(growing, where)
    config = launching._scaling_config(found, growing.parallel, where)
    assert config.label_selector == where and config.num_workers == 2
    assert config.resources_per_worker == {"CPU": 1.0, "GPU": 1.0}
    assert asked == [
        {"bundles": [{"CPU": 1.0, "GPU": 1.0}] * 2, "bundle_label_selectors": [where] * 2},
        {"bundles": [], "bundle_label_selectors": []},
    ]
    assert len(lines) == 1 and "waiting up to 1 minutes" in lines[0]


def test_machines_that_do_not_come_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(launching, "GROW_SECONDS", 0.01)
    monkeypatch.setattr(runtime.ray, "nodes", lambda: [node("driver", CPU=8.0)])
    monkeypatch.setattr(runtime.ray.autoscaler.sdk, "request_resources", lambda **wanted: asked.append(wanted))
    with pytest.raises(storage.ArtifactError, match="0 CPUs for training"):
        launching._wait_for_nodes(recipe("parallel.wait_minutes=0.001"), {"s2v-role": "train"})
    assert asked[-1] == {"bundles": [], "bundle_label_selectors": []}, "the request is withdrawn"


@pytest.mark.cluster
@pytest.mark.slow
def test_distillation_on_ray_ends_in_a_bundle_and_can_be_run_again(
    tmp_path: Path, corpus: str, local_ray: float
) -> None:
    run = str(tmp_path / "run")
    with logged() as lines:
        result = launch(RunSpec("distill", recipe(), corpus, run))
    assert result["steps"] == 6 and 0.0 <= result["metrics"]["emotion_agreement"] <= 1.0
    assert any(line.startswith("distill 6/6  loss ") for line in lines)
    student, card = load_bundle(result["bundle"], "student")
    assert card["identity_dim"] == 6 and tuple(card["emotions"]) == EMOTIONS and not student.training
    assert sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir()) == ["step-00000003", "step-00000006"]

    victim = next(Path(run, "checkpoints", "step-00000006").rglob("student/*.safetensors"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    with logged() as again:
        assert launch(RunSpec("distill", recipe(), corpus, run))["steps"] == 6
    assert again[:2] == ["distill: 1 worker is up on cpu", "distill: networks and optimizers are ready"]
    assert again[2].startswith("checkpoint of step 6 passed over: ") and victim.name in again[2]
    assert again[3] == "distill continues from the checkpoint of step 3"
    repeated, _ = load_bundle(result["bundle"], "student")
    for name, value in student.state_dict().items():
        assert value.equal(repeated.state_dict()[name]), name  # resumed and uninterrupted agree to the bit

    for outputs in Path(corpus, "teachers", "emotion", "train").iterdir():
        outputs.unlink()
    with pytest.raises(storage.ArtifactError, match="^the emotion teacher has no outputs"):
        launch(RunSpec("distill", recipe(), corpus, str(tmp_path / "other")))
