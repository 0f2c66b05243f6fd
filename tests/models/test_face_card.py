from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from s2v_ray import storage
from s2v_ray.models.face_card import CARD, built_in_cards, read_card, write_card
from tests.helpers.face_networks import plain_card, write_own_card

BUILT_IN = ["emotion_faceapi", "emotion_mini_xception", "identity_judge_mobilefacenet", "identity_mobilefacenet_y1"]


@pytest.fixture
def own_card(tmp_path: Path) -> Path:
    """A card of a network that is not built in, beside its weights."""
    return write_own_card(tmp_path / "own")


def test_every_built_in_card_is_complete() -> None:
    assert built_in_cards() == BUILT_IN
    cards = [read_card(name) for name in BUILT_IN]
    assert all(card.licence and card.source and card.output for card in cards)
    judge, teacher = read_card("emotion_mini_xception"), read_card("emotion_faceapi")
    assert set(judge.labels) == set(teacher.labels)  # so that their outputs can be compared by label
    assert len({card.digest() for card in cards}) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["a"]}, "one label for each"),
        ({"colour": "cmyk"}, "colour"),
        ({"hight": 3}, "hight"),
        ({"scale": [0.0]}, "scale must not be 0"),
        ({"mean": [1, 2]}, "mean"),
    ],
)
def test_bad_cards(own_card: Path, changes: dict[str, object], message: str) -> None:
    own_card.write_text(yaml.safe_dump(yaml.safe_load(own_card.read_text()) | changes))
    with pytest.raises(storage.ArtifactError, match=message):
        read_card(str(own_card))


def test_a_missing_card_is_an_error_that_lists_the_built_in_ones(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError, match=f"built-in cards: {', '.join(BUILT_IN)}"):
        read_card(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(storage.ArtifactError, match="is not valid YAML"):
        read_card(str(tmp_path / "bad.yaml"))


def test_the_digest_does_not_depend_on_texts_and_places() -> None:
    card = plain_card()
    for change in ({"weights": "elsewhere"}, {"title": "x"}, {"licence": "x"}, {"source": "x"}, {"notes": "x"}):
        assert card.model_copy(update=change).digest() == card.digest()
    for change in ({"sha256": "1" * 64}, {"mean": (1.0,)}, {"width": 17}, {"colour": "bgr"}):
        assert card.model_copy(update=change).digest() != card.digest()


def test_a_written_card_is_read_back_and_old_weights_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old.safetensors").write_bytes(b"")
    (tmp_path / "new.safetensors").write_bytes(b"")
    card = plain_card(weights="new.safetensors")
    write_card(card, str(tmp_path))
    assert read_card(str(tmp_path / CARD)) == card
    assert [p.name for p in tmp_path.glob("*.safetensors")] == ["new.safetensors"]
