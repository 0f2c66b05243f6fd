"""``teach_corpus`` calls its parts in order; the parts have their own tests."""

from __future__ import annotations

from typing import Any

import pytest

from s2v_ray.config import Recipe
from s2v_ray.storage import ArtifactError
from s2v_ray.teach import teach_corpus
from tests.helpers.recipes import tiny_recipe


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls of training and annotation, which return at once."""
    made: list[tuple[Any, ...]] = []

    def teach(corpus: str, recipe: Recipe) -> dict[str, Any]:
        made.append(("teach", corpus, recipe))
        return {"networks": {"teachers/identity": {"accuracy": 0.9}}}

    def annotate(corpus: str, role: str) -> dict[str, Any]:
        made.append(("annotate", corpus, role))
        return {"role": role, "shards": 3}

    monkeypatch.setattr("s2v_ray.training.teach.teach", teach)
    monkeypatch.setattr("s2v_ray.ingest.ray_pipeline.annotate", annotate)
    return made


def test_networks_are_trained_before_the_outputs_of_both_teachers_are_stored(calls: list[tuple[Any, ...]]) -> None:
    recipe = tiny_recipe()
    result = teach_corpus("corpus", recipe)
    assert calls == [("teach", "corpus", recipe), ("annotate", "corpus", "identity"), ("annotate", "corpus", "emotion")]
    assert result == {
        "networks": {"teachers/identity": {"accuracy": 0.9}},
        "annotations": {"identity": {"role": "identity", "shards": 3}, "emotion": {"role": "emotion", "shards": 3}},
    }


def test_nothing_is_annotated_if_training_fails(calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(corpus: str, recipe: Recipe) -> dict[str, Any]:
        raise ArtifactError(f"there is no corpus at {corpus}")

    monkeypatch.setattr("s2v_ray.training.teach.teach", fail)
    with pytest.raises(ArtifactError, match="there is no corpus at corpus"):
        teach_corpus("corpus", tiny_recipe())
    assert calls == []
