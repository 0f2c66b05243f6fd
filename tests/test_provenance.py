"""What is known of the data behind a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from s2v_ray import storage
from s2v_ray.provenance import describe_corpus
from tests.helpers.bundles import make_teacher
from tests.helpers.tiny_corpus import make_corpus


def test_a_corpus_is_described_without_its_address(tmp_path: Path) -> None:
    corpus = make_corpus(str(tmp_path / "corpus"))
    manifest = storage.read_json(storage.join(corpus, "manifest.json"))
    source = {"layout": "grid", "uri": "s3://private/grid"}
    storage.write_json(storage.join(corpus, "manifest.json"), manifest | {"source": source, "licence": "CC0"})
    make_teacher(tmp_path / "corpus" / "teachers" / "identity")
    found = describe_corpus(corpus)
    assert (found["layout"], found["licence"]) == ("grid", "CC0")
    assert found["splits"]["train"] == {"clips": 40}
    assert found["teachers"] == {"identity": {"title": "not stated", "licence": "", "source": ""}}
    assert "private" not in str(found)


def test_without_a_corpus_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(storage.ArtifactError):
        describe_corpus(str(tmp_path))
