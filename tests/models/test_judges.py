"""Judges are optional: what a corpus does not have, or is not asked for, is None."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from s2v_ray import storage
from s2v_ray.models.judges import ROLES, Judges, open_judges
from s2v_ray.models.sync import SyncNetwork, save_sync
from s2v_ray.models.teachers import ConvFace, save_conv

SIZE = 32


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    torch.manual_seed(0)
    common = {"height": SIZE, "width": SIZE, "alignment": "box", "channels": 4}
    uri = str(tmp_path)
    save_conv(storage.join(uri, "judges", "mouth"), ConvFace(4, 1), role="mouth", dim=1, **common)
    labels = ("happy", "sad", "angry")
    save_conv(storage.join(uri, "judges", "emotion"), ConvFace(4, 3), role="emotion", dim=3, labels=labels, **common)
    save_sync(uri, "judge", SyncNetwork(4, 3, SIZE), width=4, window=3, size=SIZE, accuracy=1.0)
    return uri


def test_judges_that_a_corpus_has_are_opened(corpus: str) -> None:
    judges = open_judges(corpus)
    assert judges.missing() == ["identity"]
    assert judges.emotion is not None and judges.emotion.labels == ("happy", "sad", "angry")
    assert judges.sync is not None and judges.sync.window == 3
    assert judges.mouth is not None
    assert judges.mouth(torch.zeros(2, SIZE, SIZE, 3, dtype=torch.uint8)).shape == (2, 1)


def test_only_the_roles_asked_for_are_opened(corpus: str) -> None:
    assert open_judges(corpus, roles=("sync",)).missing() == ["identity", "emotion", "mouth"]


def test_a_corpus_without_judges(tmp_path: Path) -> None:
    assert open_judges(str(tmp_path)) == Judges()
    assert Judges().missing() == list(ROLES) == ["identity", "emotion", "mouth", "sync"]


def test_a_damaged_judge_is_an_error(corpus: str) -> None:
    (weights,) = storage.list_files(storage.join(corpus, "judges", "mouth"), ".safetensors")
    storage.write_bytes(weights, b"damaged")
    with pytest.raises(storage.ArtifactError):
        open_judges(corpus)
