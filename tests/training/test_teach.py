"""Teachers and judges of a corpus: training, cards, interruption, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from s2v_ray import shards, storage
from s2v_ray.config import Recipe
from s2v_ray.models import teachers
from s2v_ray.models.teachers import ConvFace
from s2v_ray.training import teach
from s2v_ray.training.stills import read_stills
from s2v_ray.training.tasks.teachers import FaceTask, face_specs
from tests.helpers.face_corpus import EMOTIONS, draw, face_recipe, make_face_corpus
from tests.helpers.logs import logged


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    corpus = make_face_corpus(tmp_path_factory.mktemp("corpus"))
    return corpus, teach.teach_faces(corpus, face_recipe())


def test_teachers_and_judges_learn(taught: tuple[str, dict[str, Any]]) -> None:
    _, found = taught
    json.dumps(found)  # for programs
    assert set(found["networks"]) == {
        "teachers/identity",
        "teachers/emotion",
        "judges/identity",
        "judges/emotion",
        "judges/mouth",
    }
    for place, figures in found["networks"].items():
        if place == "judges/mouth":
            assert figures["correlation"] > 0.8 and figures["mae"] < 0.5 * figures["mae_of_constant"]
        else:
            assert figures["accuracy"] >= 0.9, place
            assert figures["leak"] <= figures["leak_chance"] + 0.3, place
    assert found["networks"]["teachers/identity"]["chance"] == pytest.approx(1 / 4)
    assert found["networks"]["teachers/emotion"]["chance"] == pytest.approx(1 / 2, abs=0.01)


def test_they_come_back_from_the_corpus(taught: tuple[str, dict[str, Any]]) -> None:
    corpus, found = taught
    rng = np.random.default_rng(1)
    emotion = teachers.load(storage.join(corpus, "teachers/emotion"))
    assert emotion.digest == found["networks"]["teachers/emotion"]["digest"]
    logits = emotion(np.stack([draw("ann", "sad", 0.5, rng), draw("dan", "happy", 0.1, rng)]))
    assert [emotion.labels[i] for i in logits.argmax(1)] == ["sad", "happy"]
    identity = teachers.load(storage.join(corpus, "teachers/identity"))
    codes = identity(np.stack([draw(s, e, 0.5, rng) for s in ("ann", "ben") for e in EMOTIONS]))
    cosine = codes @ codes.T
    assert min(cosine[0, 1], cosine[2, 3]) > max(cosine[0, 2], cosine[0, 3], cosine[1, 2], cosine[1, 3])
    mouth = teachers.load(storage.join(corpus, "judges/mouth"))
    assert (mouth(draw("cat", "sad", 0.9, rng)[None]) - mouth(draw("cat", "sad", 0.1, rng)[None])).item() > 0.4
    manifest = storage.read_manifest(storage.join(corpus, "judges/mouth"), "face-network", teach.FACE_SCHEMA)
    assert manifest["role"] == "mouth" and manifest["parents"]["corpus"]


def test_judges_differ_from_teachers(taught: tuple[str, dict[str, Any]]) -> None:
    corpus, _ = taught
    for role in ("identity", "emotion"):
        teacher, judge = (teachers.load(storage.join(corpus, group, role)) for group in ("teachers", "judges"))
        assert teacher.card.channels != judge.card.channels
        assert teacher.digest != judge.digest


def test_one_emotion_asks_for_a_card(tmp_path: Path) -> None:
    corpus = make_face_corpus(tmp_path, emotions=("sad",))
    with pytest.raises(storage.ArtifactError, match="name only the emotion 'sad'; name a card in teachers.emotion"):
        teach.teach_faces(corpus, face_recipe())
    assert not (tmp_path / "teachers").exists()


def test_no_speakers_asks_for_a_card(tmp_path: Path) -> None:
    corpus = make_face_corpus(tmp_path, speakers=("",))
    with pytest.raises(storage.ArtifactError, match="name no speaker; name a card in teachers.identity"):
        teach.teach_faces(corpus, face_recipe())


def test_named_cards_are_installed_and_the_rest_is_skipped_with_reasons(tmp_path: Path) -> None:
    corpus = make_face_corpus(tmp_path / "corpus", emotions=("",), mouth=False)
    cards = {}
    for role, dim in (("identity", 4), ("emotion", 2)):
        labels = ("x", "y") if role == "emotion" else ()
        made = teachers.save_conv(
            str(tmp_path / role),
            ConvFace(4, dim),
            role=role,
            dim=dim,
            labels=labels,
            channels=4,
            height=16,
            width=16,
            alignment="box",
        )
        card = made.card.model_dump(mode="json") | {"weights": str(tmp_path / role / made.card.weights)}
        (tmp_path / f"{role}.yaml").write_text(yaml.safe_dump(card))
        cards[role] = str(tmp_path / f"{role}.yaml")
    with logged() as lines:
        found = teach.teach_faces(corpus, face_recipe(teachers=cards))
    assert set(found["networks"]) == {"teachers/identity", "teachers/emotion", "judges/identity"}
    assert found["skipped"] == {
        "judges/emotion": "the training clips name no emotion",
        "judges/mouth": "no clip of the corpus knows its mouth opening",
    }
    assert "judges/mouth skipped: no clip of the corpus knows its mouth opening" in lines
    assert teachers.load(storage.join(corpus, "teachers/emotion")).labels == ("x", "y")


def test_a_network_at_chance_is_refused(tmp_path: Path) -> None:
    corpus = make_face_corpus(tmp_path, shuffled=True)
    with pytest.raises(storage.ArtifactError, match="teachers/identity is at chance on clips it never saw"):
        teach.teach_faces(corpus, face_recipe())
    assert not (tmp_path / "teachers").exists()


def test_empty_or_missing_corpus(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match="there is no corpus at"):
        teach.teach_faces(str(tmp_path), face_recipe())
    storage.write_manifest(
        str(tmp_path), "corpus", shards.CORPUS_SCHEMA, splits={split: {"shards": 0} for split in shards.SPLITS}
    )
    with pytest.raises(storage.ArtifactError, match="no training clips"):
        teach.teach_faces(str(tmp_path), face_recipe())


def test_same_seed_same_network(taught: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    corpus, _ = taught
    stills = read_stills(corpus)
    few = face_recipe(teach={"steps": 30, "batch": 32, "width": 8, "embedding": 16, "lr": 5e-3})
    state = torch.random.get_rng_state()
    first, second = (trained(few, stills, make_face_corpus(tmp_path / name)) for name in ("first", "second"))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(state, torch.random.get_rng_state()), "the caller's random generator is restored"


def trained(settings: Recipe, stills: Any, corpus: str) -> dict[str, torch.Tensor]:
    """Weights of the emotion teacher."""
    network = teach.train_face(face_specs(settings)[1], stills, settings, corpus).network
    assert network is not None
    return network.state_dict()


def test_an_interrupted_training_continues_to_the_same_network(
    taught: tuple[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, _ = taught
    stills = read_stills(corpus)
    few = face_recipe(teach={"steps": 32, "batch": 32, "width": 8, "embedding": 16, "lr": 5e-3})
    whole = trained(few, stills, make_face_corpus(tmp_path / "whole"))
    step = FaceTask.step

    def killed(task: FaceTask, batch: Any, number: int) -> Any:
        if number == 20:
            raise KeyboardInterrupt
        return step(task, batch, number)

    cut = make_face_corpus(tmp_path / "cut")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FaceTask, "step", killed)
        trained(few, stills, cut)
    with logged() as lines:
        resumed = trained(few, stills, cut)
    assert "teachers/emotion continues from the checkpoint of step 16" in lines
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
