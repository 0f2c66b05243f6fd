"""Judges are optional: what a corpus does not have, or is not asked for, is None."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2v_ray import storage
from s2v_ray.models.judges import ROLES, Judges, open_judges, open_landmarks, open_validators
from s2v_ray.models.sync import SyncJudgeNetwork, SyncNetwork, save_sync
from s2v_ray.models.teachers import ConvFace, save_conv
from tests.helpers.face_networks import plain_card

SIZE = 32


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    torch.manual_seed(0)
    common = {"height": SIZE, "width": SIZE, "alignment": "box", "channels": 4}
    uri = str(tmp_path)
    save_conv(storage.join(uri, "judges", "mouth"), ConvFace(4, 1), role="mouth", dim=1, **common)
    labels = ("happy", "sad", "angry")
    save_conv(storage.join(uri, "judges", "emotion"), ConvFace(4, 3), role="emotion", dim=3, labels=labels, **common)
    save_sync(uri, "judge", SyncJudgeNetwork(4, 5, SIZE), width=4, window=5, size=SIZE, accuracy=1.0)
    save_conv(storage.join(uri, "teachers", "identity"), ConvFace(4, 6), role="identity", dim=6, **common)
    save_sync(uri, "expert", SyncNetwork(4, 3, SIZE), width=4, window=3, size=SIZE, accuracy=1.0)
    return uri


def test_judges_that_a_corpus_has_are_opened(corpus: str) -> None:
    judges = open_judges(corpus)
    assert judges.missing() == ["identity", "landmarks"]
    assert judges.emotion is not None and judges.emotion.labels == ("happy", "sad", "angry")
    assert judges.sync is not None and judges.sync.window == 5
    assert judges.mouth is not None
    assert judges.mouth(torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)).shape == (2, 1)


def test_validation_uses_the_teachers_and_the_expert(corpus: str) -> None:
    networks = open_validators(corpus)
    assert networks.missing() == ["emotion", "mouth", "landmarks"]
    assert isinstance(networks.sync, SyncNetwork) and networks.sync.window == 3
    assert networks.identity is not None
    assert networks.identity(torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)).shape == (2, 6)


def test_networks_are_named() -> None:
    titled = plain_card(title="a network")

    class Network:
        card = titled
        labels = ("a",)

        def __call__(self, frames: object) -> torch.Tensor:
            raise NotImplementedError

    assert Judges(emotion=Network(), mouth=ConvFace(4, 1)).names() == {
        "emotion": "a network",
        "mouth": "made by `s2v teach`",
    }


def test_landmarks_come_from_a_card_or_from_yunet(tmp_path: Path) -> None:
    assert open_landmarks("", "haar") is None
    with pytest.raises(storage.ArtifactError, match="there is no card"):
        open_landmarks(str(tmp_path / "none.yaml"), "haar")
    with pytest.raises(ValueError, match="cannot be used as YuNet weights"):
        open_landmarks("", str(tmp_path / "none.onnx"))


def test_a_corpus_without_judges(tmp_path: Path) -> None:
    assert open_judges(str(tmp_path)) == Judges()
    assert Judges().missing() == list(ROLES) == ["identity", "emotion", "mouth", "sync", "landmarks"]


def test_a_damaged_judge_is_an_error(corpus: str) -> None:
    (weights,) = storage.list_files(storage.join(corpus, "judges", "mouth"), ".safetensors")
    storage.write_bytes(weights, b"damaged")
    with pytest.raises(storage.ArtifactError):
        open_judges(corpus)
